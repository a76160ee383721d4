-- What each of Tally's processes may do in ClickHouse, and nothing else. Run it once, as an administrator, with the
-- database's name if it is another one; the passwords' hashes are yours (SHA-256, in hex).
CREATE ROLE IF NOT EXISTS tally_worker;
GRANT SELECT ON tally.* TO tally_worker;
GRANT INSERT, ALTER DELETE ON tally.interactions TO tally_worker;
GRANT INSERT, ALTER DELETE ON tally.outcomes TO tally_worker;
GRANT INSERT, ALTER DELETE ON tally.outcomes_expiring TO tally_worker;
GRANT INSERT ON tally.ledger TO tally_worker;
GRANT INSERT ON tally.topics TO tally_worker;

CREATE ROLE IF NOT EXISTS tally_api;
GRANT SELECT ON tally.* TO tally_api;
GRANT INSERT ON tally.interactions TO tally_api;
GRANT INSERT ON tally.deletions TO tally_api;

-- For `tally init`, `tally keys` and `tally replay`.
CREATE ROLE IF NOT EXISTS tally_admin;
GRANT CREATE DATABASE, DROP DATABASE ON tally.* TO tally_admin;
GRANT ALL ON tally.* TO tally_admin;

CREATE USER IF NOT EXISTS tally_worker IDENTIFIED WITH sha256_hash BY '${WORKER_SHA256}' DEFAULT ROLE tally_worker;
CREATE USER IF NOT EXISTS tally_api IDENTIFIED WITH sha256_hash BY '${API_SHA256}' DEFAULT ROLE tally_api;
CREATE USER IF NOT EXISTS tally_admin IDENTIFIED WITH sha256_hash BY '${ADMIN_SHA256}' DEFAULT ROLE tally_admin;
