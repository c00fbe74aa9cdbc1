-- Whether a creation was confirmed stands in the row of what was created.
ALTER TABLE idempotency DROP COLUMN confirmed;
