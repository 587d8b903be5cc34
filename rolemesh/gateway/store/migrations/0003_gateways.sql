-- Who is there, by the database's own clock. A row is one run of one gateway.
CREATE TABLE gateways (
    id TEXT PRIMARY KEY,
    url TEXT,
    beat TIMESTAMPTZ NOT NULL
);
