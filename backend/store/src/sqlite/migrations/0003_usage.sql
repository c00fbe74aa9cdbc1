-- What was allotted to whom, where and since when: the most that a host can have measured.
CREATE TABLE allotment (
    subject    TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    host       TEXT NOT NULL,
    account    TEXT NOT NULL,
    vcpus      INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    size_gib   INTEGER NOT NULL,
    class      TEXT NOT NULL,
    from_ms    INTEGER NOT NULL,
    until_ms   INTEGER,
    PRIMARY KEY (subject, epoch, host)
) STRICT, WITHOUT ROWID;
CREATE INDEX allotment_by_end ON allotment (until_ms) WHERE until_ms IS NOT NULL;

-- Windows as hosts have signed them, never changed.
CREATE TABLE usage_window (
    subject      TEXT NOT NULL,
    host         TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    begun_ms     INTEGER NOT NULL,
    sequence     INTEGER NOT NULL,
    account      TEXT NOT NULL,
    from_ms      INTEGER NOT NULL,
    until_ms     INTEGER NOT NULL CHECK (until_ms > from_ms),
    kind         TEXT NOT NULL CHECK (kind IN ('used', 'off', 'unseen')),
    class        TEXT NOT NULL,
    vcpu_ms      INTEGER NOT NULL,
    mib_ms       INTEGER NOT NULL,
    gib_ms       INTEGER NOT NULL,
    egress_bytes INTEGER NOT NULL,
    signature    BLOB NOT NULL,
    signer       TEXT NOT NULL REFERENCES usage_signer (sha256),
    accepted_ms  INTEGER NOT NULL,
    PRIMARY KEY (subject, host, epoch, begun_ms, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_window_by_time ON usage_window (subject, from_ms);
CREATE INDEX usage_window_by_account ON usage_window (account, subject, from_ms);
CREATE INDEX usage_window_by_end ON usage_window (until_ms);
CREATE TRIGGER usage_window_is_never_changed BEFORE UPDATE ON usage_window
BEGIN
    SELECT RAISE(ABORT, 'windows of usage are append-only');
END;

-- The certificates that windows were signed with.
CREATE TABLE usage_signer (
    sha256      TEXT PRIMARY KEY NOT NULL,
    host        TEXT NOT NULL,
    certificate BLOB NOT NULL
) STRICT, WITHOUT ROWID;
