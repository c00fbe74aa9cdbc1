-- Every noun's table has the same columns: the id, whose it is, the revision of its last
-- change, and the row as JSON. Beside them stand only columns that a constraint or a lookup
-- needs. `revision` in the body is not kept up to date; the column is.

CREATE TABLE account (
    id       TEXT PRIMARY KEY NOT NULL,
    account  TEXT NOT NULL CHECK (account = id),
    revision INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX account_by_revision ON account (revision);

CREATE TABLE host (
    id       TEXT PRIMARY KEY NOT NULL,
    account  TEXT NOT NULL REFERENCES account (id),
    revision INTEGER NOT NULL,
    name     TEXT NOT NULL,
    body     TEXT NOT NULL,
    UNIQUE (account, name)
) STRICT;
CREATE INDEX host_by_account ON host (account, id);
CREATE INDEX host_by_revision ON host (revision);

CREATE TABLE credential (
    id       TEXT PRIMARY KEY NOT NULL,
    account  TEXT NOT NULL REFERENCES account (id),
    revision INTEGER NOT NULL,
    sha256   TEXT NOT NULL UNIQUE,
    host     TEXT REFERENCES host (id),
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX credential_by_account ON credential (account, id);
CREATE INDEX credential_by_host ON credential (host);
CREATE INDEX credential_by_revision ON credential (revision);

CREATE TABLE placement_group (
    id       TEXT PRIMARY KEY NOT NULL,
    account  TEXT NOT NULL REFERENCES account (id),
    revision INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX placement_group_by_account ON placement_group (account, id);
CREATE INDEX placement_group_by_revision ON placement_group (revision);

CREATE TABLE volume (
    id       TEXT PRIMARY KEY NOT NULL,
    account  TEXT NOT NULL REFERENCES account (id),
    revision INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX volume_by_account ON volume (account, id);
CREATE INDEX volume_by_revision ON volume (revision);

CREATE TABLE instance (
    id       TEXT PRIMARY KEY NOT NULL,
    account  TEXT NOT NULL REFERENCES account (id),
    revision INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX instance_by_account ON instance (account, id);
CREATE INDEX instance_by_revision ON instance (revision);

CREATE TABLE operation (
    id       TEXT PRIMARY KEY NOT NULL,
    account  TEXT NOT NULL REFERENCES account (id),
    revision INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;
CREATE INDEX operation_by_account ON operation (account, id);
CREATE INDEX operation_by_revision ON operation (revision);

-- Rows that are gone, for those who follow the changes.
CREATE TABLE deletion (
    revision INTEGER NOT NULL,
    id       TEXT NOT NULL,
    noun     TEXT NOT NULL,
    account  TEXT NOT NULL,
    PRIMARY KEY (revision, id)
) STRICT, WITHOUT ROWID;

-- One row: the last revision, and from which revision on every deletion is still kept.
CREATE TABLE counter (
    one               INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
    revision          INTEGER NOT NULL,
    deletions_kept_from INTEGER NOT NULL
) STRICT;
INSERT INTO counter (one, revision, deletions_kept_from) VALUES (1, 0, 0);

CREATE TABLE idempotency (
    account    TEXT NOT NULL,
    key        TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    confirmed  INTEGER NOT NULL CHECK (confirmed IN (0, 1)),
    body       TEXT NOT NULL,
    PRIMARY KEY (account, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_expiry ON idempotency (expires_at);

CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY NOT NULL,
    entry    TEXT NOT NULL,
    hash     BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_is_never_shortened BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
