-- How long before its heartbeat came the agent is known to have lived, milliseconds: the rest is no sign of life.
ALTER TABLE agent ADD COLUMN heard_late INTEGER NOT NULL DEFAULT 0;
