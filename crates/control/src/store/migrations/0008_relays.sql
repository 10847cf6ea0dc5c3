-- What netmaps said of relays last: when it is something else at a start, netmaps are new.

CREATE TABLE relays (
    id TEXT PRIMARY KEY,
    record TEXT NOT NULL
);
