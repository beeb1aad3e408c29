-- How long before its heartbeat came the agent is known to have lived, milliseconds: the rest is no sign of life.
ALTER TABLE agent ADD COLUMN heard_late INTEGER NOT NULL DEFAULT 0;

-- Of whom something was missing by the agent's own word: everything up to a number of a stream. Over when that has come,
-- or the stream is not the live one any more.
CREATE TABLE withheld (
    agent  INTEGER NOT NULL PRIMARY KEY REFERENCES agent,
    epoch  BLOB    NOT NULL,
    number INTEGER NOT NULL
) STRICT;
