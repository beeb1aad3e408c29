-- Times are milliseconds since 1970. `at` is the agent's clock, `received_at` the server's.

CREATE TABLE agent (
    id            INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    first_seen    INTEGER NOT NULL,
    last_seen     INTEGER NOT NULL,
    held          INTEGER NOT NULL DEFAULT 0,
    displacements INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One life of an agent's queue, and how far it is in the database.
CREATE TABLE stream (
    id        INTEGER PRIMARY KEY,
    agent     INTEGER NOT NULL REFERENCES agent,
    epoch     BLOB    NOT NULL,
    previous  BLOB,
    state     INTEGER NOT NULL, -- 0 live, 1 displaced
    number    INTEGER NOT NULL,
    hash      BLOB    NOT NULL,
    commits   INTEGER NOT NULL DEFAULT 0,
    opened_at INTEGER NOT NULL,
    UNIQUE (agent, epoch)
) STRICT;

-- An agent has one live stream.
CREATE UNIQUE INDEX stream_live ON stream (agent) WHERE state = 0;

-- The ends of the newest batches of a stream: a ring, so that nothing has to be deleted.
CREATE TABLE chain (
    stream INTEGER NOT NULL REFERENCES stream,
    slot   INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hash   BLOB    NOT NULL,
    PRIMARY KEY (stream, slot)
) STRICT, WITHOUT ROWID;

-- `id` is a UUIDv7: its order is that of the times at which alerts were raised.
CREATE TABLE alert (
    number       INTEGER PRIMARY KEY,
    id           BLOB    NOT NULL UNIQUE,
    agent        INTEGER NOT NULL REFERENCES agent,
    monitor      TEXT    NOT NULL,
    severity     INTEGER NOT NULL,
    priority     INTEGER NOT NULL,
    text         TEXT    NOT NULL,
    detail       TEXT    NOT NULL,
    state        INTEGER NOT NULL,
    repeat_count INTEGER NOT NULL,
    raised_at    INTEGER NOT NULL,
    modified_at  INTEGER NOT NULL,
    closed_at    INTEGER
) STRICT;

CREATE INDEX alert_open ON alert (id) WHERE state <> 255;
CREATE INDEX alert_agent ON alert (agent, id);

CREATE TABLE alert_history (
    alert       INTEGER NOT NULL REFERENCES alert,
    step        INTEGER NOT NULL,
    change      INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    severity    INTEGER NOT NULL,
    state       INTEGER NOT NULL,
    text        TEXT    NOT NULL,
    PRIMARY KEY (alert, step)
) STRICT, WITHOUT ROWID;

-- In the order of arrival, without another index and without foreign keys: by far the most rows come here, `agent` was
-- read in the same transaction, and checking it again for each row costs a third of the whole insert.
CREATE TABLE event (
    number   INTEGER PRIMARY KEY,
    agent    INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    severity INTEGER NOT NULL,
    id       BLOB    NOT NULL,
    source   TEXT    NOT NULL,
    text     TEXT    NOT NULL
) STRICT;

-- How each monitor is now.
CREATE TABLE state (
    agent   INTEGER NOT NULL REFERENCES agent,
    monitor TEXT    NOT NULL,
    health  INTEGER NOT NULL,
    since   INTEGER NOT NULL,
    text    TEXT    NOT NULL,
    PRIMARY KEY (agent, monitor)
) STRICT, WITHOUT ROWID;

-- What is sampled, once, so that a sample is three numbers.
CREATE TABLE series (
    id     INTEGER PRIMARY KEY,
    agent  INTEGER NOT NULL REFERENCES agent,
    source TEXT    NOT NULL,
    label  TEXT    NOT NULL,
    unit   TEXT    NOT NULL,
    UNIQUE (agent, source, label, unit)
) STRICT;

-- Like events.
CREATE TABLE sample (
    number INTEGER PRIMARY KEY,
    series INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    value  REAL    NOT NULL
) STRICT;

-- Entries that an agent had to drop, in their place.
CREATE TABLE gap (
    id          INTEGER PRIMARY KEY,
    agent       INTEGER NOT NULL REFERENCES agent,
    stream      INTEGER NOT NULL REFERENCES stream,
    first       INTEGER NOT NULL,
    last        INTEGER NOT NULL,
    reason      INTEGER NOT NULL,
    performance INTEGER NOT NULL,
    events      INTEGER NOT NULL,
    states      INTEGER NOT NULL,
    alerts      INTEGER NOT NULL,
    unknown     INTEGER NOT NULL,
    found_from  INTEGER NOT NULL, -- 0 not known
    found_to    INTEGER NOT NULL,
    received_at INTEGER NOT NULL
) STRICT;

CREATE INDEX gap_agent ON gap (agent);

-- Entries that make no sense here, as they came.
CREATE TABLE set_aside (
    id          INTEGER PRIMARY KEY,
    stream      INTEGER NOT NULL REFERENCES stream,
    number      INTEGER NOT NULL,
    reason      TEXT    NOT NULL,
    entry       BLOB    NOT NULL,
    received_at INTEGER NOT NULL
) STRICT;
