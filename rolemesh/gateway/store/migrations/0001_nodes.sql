CREATE TABLE nodes (
    node TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    generation BIGINT NOT NULL,
    registration TEXT NOT NULL,
    source TEXT NOT NULL,
    token TEXT,
    registered_at DOUBLE PRECISION NOT NULL
);
