-- The texts of packs. Which of them agents run, and that a text is the right one, says the trust log alone.
CREATE TABLE pack (
    name TEXT PRIMARY KEY,
    text TEXT NOT NULL
) STRICT;
