-- The trust log, entry after entry as it was signed. What decides about trust is read from here, once, at the start.
CREATE TABLE log (
    number INTEGER PRIMARY KEY,
    entry  BLOB    NOT NULL
) STRICT;

-- What the log says, for whoever looks at the database with other programs. Nothing decides by these rows, and rows that
-- do not say what the log says are put right.

CREATE TABLE member (
    name        TEXT    PRIMARY KEY,
    role        TEXT    NOT NULL,
    identity    BLOB    NOT NULL, -- SubjectPublicKeyInfo, DER
    parents     TEXT    NOT NULL, -- gateways in order, a space between them
    token       BLOB,
    joined_at   INTEGER NOT NULL,
    certificate BLOB,             -- SHA-256 of the newest channel certificate
    not_after   INTEGER           -- when that ends, seconds since 1970
) STRICT;

CREATE TABLE token (
    id      BLOB    PRIMARY KEY,
    key     BLOB    NOT NULL, -- Ed25519
    role    TEXT    NOT NULL,
    name    TEXT    NOT NULL,
    uses    INTEGER NOT NULL,
    used    INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    parents TEXT    NOT NULL,
    revoked INTEGER NOT NULL
) STRICT;
