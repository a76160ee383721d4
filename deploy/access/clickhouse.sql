-- What each of Tally's processes may do in ClickHouse, and nothing else. Run it once, as an administrator, with the
-- database's name if it is another one; the passwords' hashes are yours (SHA-256, in hex).
CREATE ROLE IF NOT EXISTS tally_worker;
GRANT SELECT ON tally.* TO tally_worker;
REVOKE SELECT ON tally.api_keys FROM tally_worker;
GRANT INSERT, ALTER DELETE ON tally.interactions TO tally_worker;
GRANT INSERT, ALTER DELETE ON tally.outcomes TO tally_worker;
GRANT INSERT, ALTER DELETE ON tally.outcomes_expiring TO tally_worker;
GRANT INSERT ON tally.ledger TO tally_worker;
GRANT INSERT ON tally.topics TO tally_worker;

-- It only looks at the keys.
CREATE ROLE IF NOT EXISTS tally_collector;
GRANT SELECT ON tally.api_keys TO tally_collector;

-- It reads, notes deletions and replays of dead letters, creates evaluation datasets and API keys, and counts what
-- weights are learned from.
CREATE ROLE IF NOT EXISTS tally_reader;
GRANT SELECT ON tally.* TO tally_reader;
GRANT INSERT ON tally.interactions TO tally_reader;
GRANT INSERT ON tally.outcomes TO tally_reader;
GRANT INSERT ON tally.deletions TO tally_reader;
GRANT INSERT ON tally.api_keys TO tally_reader;
GRANT INSERT ON tally.evaluation_datasets TO tally_reader;
GRANT INSERT ON tally.learning_configs TO tally_reader;
GRANT INSERT, ALTER DELETE ON tally.learning_counts TO tally_reader;
GRANT INSERT ON tally.learning_days TO tally_reader;
GRANT INSERT ON tally.learning_progress TO tally_reader;
GRANT INSERT ON tally.signals TO tally_reader;

-- For `tally init`, `tally keys` and `tally replay`.
CREATE ROLE IF NOT EXISTS tally_admin;
GRANT CREATE DATABASE, DROP DATABASE ON tally.* TO tally_admin;
GRANT ALL ON tally.* TO tally_admin;

-- For people and their tools. Give its user a profile with readonly = 1.
CREATE ROLE IF NOT EXISTS tally_analyst;
GRANT SELECT ON tally.* TO tally_analyst;
REVOKE SELECT ON tally.api_keys FROM tally_analyst;

CREATE USER IF NOT EXISTS tally_worker IDENTIFIED WITH sha256_hash BY '${WORKER_SHA256}' DEFAULT ROLE tally_worker;
CREATE USER IF NOT EXISTS tally_collector IDENTIFIED WITH sha256_hash BY '${COLLECTOR_SHA256}' DEFAULT ROLE tally_collector;
CREATE USER IF NOT EXISTS tally_reader IDENTIFIED WITH sha256_hash BY '${READER_SHA256}' DEFAULT ROLE tally_reader;
CREATE USER IF NOT EXISTS tally_admin IDENTIFIED WITH sha256_hash BY '${ADMIN_SHA256}' DEFAULT ROLE tally_admin;
CREATE USER IF NOT EXISTS tally_analyst IDENTIFIED WITH sha256_hash BY '${ANALYST_SHA256}' DEFAULT ROLE tally_analyst SETTINGS readonly = 1;
