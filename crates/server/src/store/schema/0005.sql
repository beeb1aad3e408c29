-- Work that one of several servers does at a time. Who holds it counts its beat up; who has seen the same beat for too long
-- takes it over in a new epoch, and whatever the one before still writes is in an epoch that is over.
CREATE TABLE lease (
    work   TEXT    PRIMARY KEY,
    holder TEXT    NOT NULL,
    epoch  INTEGER NOT NULL,
    beat   INTEGER NOT NULL
) STRICT;

-- How often the agent is heard, milliseconds, and by which server.
ALTER TABLE agent ADD COLUMN heard_every INTEGER NOT NULL DEFAULT 60000;
ALTER TABLE agent ADD COLUMN heard_by TEXT NOT NULL DEFAULT '';
