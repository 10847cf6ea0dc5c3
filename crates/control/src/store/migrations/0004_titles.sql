-- Whether somebody named the thread. A title that nobody chose is the beginning of what was asked, and so is content.

ALTER TABLE threads ADD COLUMN titled BIGINT NOT NULL DEFAULT 0;
UPDATE threads SET titled = 1 WHERE id IN (SELECT thread_id FROM events WHERE type = 'thread_renamed');
