-- The secrets of Run As accounts, encrypted under the group key. Which accounts there are, which version each has, and the
-- hash of what must be here, says the trust log alone.
CREATE TABLE account (
    id     BLOB PRIMARY KEY,
    secret BLOB NOT NULL
) STRICT;

-- What became of each version of an account on each agent. Times are milliseconds since 1970, by the agent's clock but for
-- `sent_at`.
CREATE TABLE receipt (
    agent       TEXT    NOT NULL,
    account     BLOB    NOT NULL,
    version     INTEGER NOT NULL,
    sent_at     INTEGER,
    opened_at   INTEGER,
    failed_at   INTEGER,          -- it could not be opened
    used_since  INTEGER,
    used_at     INTEGER,
    workflow    TEXT,             -- that used it last
    removed_at  INTEGER,
    PRIMARY KEY (agent, account, version)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_account ON receipt (account);

-- The sealing key of each member, like the other columns.
ALTER TABLE member ADD COLUMN sealing BLOB; -- the key's id
