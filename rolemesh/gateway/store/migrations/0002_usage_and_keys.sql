CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    record TEXT NOT NULL
);

-- Which database counted a figure: so that copying it twice does not count it twice.
CREATE TABLE origin (
    id TEXT PRIMARY KEY
);

INSERT INTO origin VALUES ('$NEW_ID');

CREATE TABLE usage (
    origin TEXT NOT NULL,
    day TEXT NOT NULL,
    key TEXT NOT NULL,
    role TEXT NOT NULL,
    requests BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    PRIMARY KEY (day, key, role, origin)
);
