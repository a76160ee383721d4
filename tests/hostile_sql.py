"""Statements that the ClickHouse front must not run. `{dir}` is a folder with secret.csv, `{url}` a server."""

HOSTILE = [
    *"""
SELECT 1 INTO OUTFILE '{dir}/made.csv'
SELECT 1 into/**/outfile '{dir}/made.csv' FORMAT CSV
SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{dir}/secret.csv' TRUNCATE
INSERT INTO tally.schema_migrations (version) FROM INFILE '{dir}/secret.csv' FORMAT CSV
INSERT INTO tally.schema_migrations (version) SELECT 1 FORMAT CSV; SELECT 1 INTO OUTFILE '{dir}/made.csv'
SELECT 1; SELECT 2 INTO OUTFILE '{dir}/made.csv'
SELECT file('{dir}/secret.csv')
SELECT `file`('{dir}/secret.csv')
SELECT "f\\x69le"('{dir}/secret.csv')
SELECT * APPLY file FROM (SELECT '{dir}/secret.csv')
SELECT * APPLY(x -> file(x)) FROM (SELECT '{dir}/secret.csv')
SELECT arrayMap(file, ['{dir}/secret.csv'])
SELECT file /* ( */ ('{dir}/secret.csv')
SELECT 1 SETTINGS select = 'file(\\'{dir}/secret.csv\\')'
SELECT 1 AS a SETTINGS additional_result_filter = 'file(\\'{dir}/secret.csv\\') != \\'\\''
SELECT * FROM file('{dir}/secret.csv', 'LineAsString')
SELECT * FROM FiLe/**/('{dir}/secret.csv', 'LineAsString')
SELECT * FROM `file`('{dir}/secret.csv', 'LineAsString')
SELECT * FROM '{dir}/secret.csv'
SELECT * FROM `{dir}/secret.csv`
SELECT * FROM view(SELECT * FROM file('{dir}/secret.csv', 'LineAsString'))
SELECT * FROM loop(file('{dir}/secret.csv', 'LineAsString')) LIMIT 1
WITH x AS (SELECT * FROM file('{dir}/secret.csv', 'LineAsString')) SELECT * FROM x
SELECT 1 WHERE 'a' IN file('{dir}/secret.csv', 'LineAsString')
SELECT * FROM eval('SELECT * FROM file(\\'{dir}/secret.csv\\', \\'LineAsString\\')')
SELECT * FROM executable('id', 'TSV', 'a String')
SELECT * FROM Python(sys)
SELECT * FROM filesystem('{dir}')
SELECT * FROM sqlite('{dir}/made.sqlite', 't')
SELECT * FROM url('{url}', 'CSV', 'a String')
SELECT * FROM s3('{url}/b/k', 'CSV', 'a String')
SELECT * FROM hdfs('hdfs://127.0.0.1:1/x', 'CSV', 'a String')
SELECT * FROM remote('127.0.0.1:1', 'system.one')
SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')
SELECT * FROM postgresql('127.0.0.1:1', 'd', 't', 'u', 'p')
SELECT * FROM redis('127.0.0.1:1', 'k', 'k String')
SELECT * FROM mongodb('127.0.0.1:1', 'd', 't', 'u', 'p', 'a String')
SELECT * FROM cluster('default', 'system.one')
SELECT aiGenerate('x')
DESCRIBE TABLE url('{url}', 'CSV')
DESCRIBE file('{dir}/secret.csv', 'CSV')
EXPLAIN SELECT * FROM url('{url}', 'CSV')
INSERT INTO FUNCTION file('{dir}/made.csv', 'CSV', 'a Int8') SELECT 1
INSERT INTO TABLE FUNCTION url('{url}', 'CSV', 'a Int8') SELECT 1
CREATE TABLE tally.bad (a String) ENGINE = File(CSV, '{dir}/secret.csv')
CREATE TABLE tally.bad (a String) ENGINE = URL('{url}', 'CSV')
CREATE TABLE tally.bad (a String) engine=S3('{url}/b/k', 'CSV')
CREATE TABLE tally.bad (a String) ENGINE = `EmbeddedRocksDB`(0, '{dir}/made') PRIMARY KEY a
CREATE TABLE tally.bad (a String) ENGINE = Executable('id', 'CSV')
CREATE TABLE tally.bad (a String) ENGINE = FileLog('{dir}', 'CSV')
CREATE TABLE tally.bad (a String) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = local, path = '{dir}/made/')
CREATE TABLE tally.bad (a String) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = web, endpoint = '{url}/')
CREATE TABLE tally.bad AS file('{dir}/secret.csv', 'LineAsString')
CREATE TABLE tally.bad ENGINE = MergeTree ORDER BY tuple() AS SELECT file('{dir}/secret.csv') AS a
CREATE TABLE tally.bad (a Int8, b String DEFAULT file('{dir}/secret.csv')) ENGINE = Memory
ALTER TABLE tally.topics ADD COLUMN bad String DEFAULT file('{dir}/secret.csv')
CREATE VIEW tally.bad AS SELECT * FROM file('{dir}/secret.csv', 'LineAsString')
CREATE VIEW tally.bad DEFINER = default SQL SECURITY DEFINER AS SELECT file('{dir}/secret.csv') AS a
CREATE DATABASE bad ENGINE = Filesystem('{dir}')
CREATE DATABASE bad ENGINE = SQLite('{dir}/made.sqlite')
CREATE DATABASE bad ENGINE = MySQL('127.0.0.1:1', 'd', 'u', 'p')
CREATE DATABASE bad ENGINE = DataLakeCatalog('{url}') SETTINGS warehouse = 'w'
CREATE DATABASE bad ENGINE = Backup('tally', File('{dir}'))
CREATE DICTIONARY tally.bad (a Int8) PRIMARY KEY a SOURCE(FILE(PATH '{dir}/secret.csv')) LAYOUT(FLAT()) LIFETIME(0)
CREATE DICTIONARY tally.bad (a Int8) PRIMARY KEY a SOURCE(HTTP(URL '{url}' FORMAT CSV)) LAYOUT(FLAT()) LIFETIME(0)
CREATE FUNCTION bad AS (x) -> file(x)
CREATE NAMED COLLECTION bad AS url = '{url}'
CREATE USER bad
ATTACH TABLE tally.bad FROM '{dir}' (a Int8) ENGINE = MergeTree ORDER BY a
BACKUP DATABASE tally TO File('{dir}/made')
BACKUP DATABASE tally TO File('../../made')
BACKUP DATABASE tally TO S3('{url}/b/k', 'k', 's')
BACKUP DATABASE tally TO Disk('default', 'made')
BACKUP DATABASE tally TO Memory('made')
BACKUP DATABASE tally TO File('made') SETTINGS base_backup = S3('{url}/b/k', 'k', 's')
RESTORE DATABASE tally AS made FROM File('{dir}')
RESTORE DATABASE tally AS made FROM S3('{url}/b/k', 'k', 's')
SELECT 1 FORMAT Template SETTINGS format_template_row = '{dir}/secret.csv'
SELECT 'x' AS a FORMAT Protobuf SETTINGS format_schema = '{dir}/schema:M'
SELECT 'x' AS a FORMAT Protobuf SETTINGS output_format_schema = '{dir}/made'
SELECT 'x' AS a FORMAT AvroConfluent SETTINGS format_avro_schema_registry_url = '{url}'
SELECT 1 SETTINGS dialect = 'prql'
SET ROLE ALL
SET dialect = 'kusto'
SYSTEM SHUTDOWN
SYSTEM STOP MERGES
EXECUTE AS default SELECT 1
GRANT ALL ON *.* TO default
USE system
SELECT $x$a;b$x$; SELECT 1 INTO OUTFILE '{dir}/made.csv'
DROP TABLE IF EXISTS tally.never PARALLEL WITH DROP TABLE IF EXISTS tally.never2
""".strip().splitlines(),
    # Statements of several lines.
]
"""Statements that no user may run: they reach files or other machines."""

FORBIDDEN_READS = """
INSERT INTO tally.topics (topic) SELECT 'x'
ALTER TABLE tally.interactions DELETE WHERE 1
ALTER TABLE tally.interactions UPDATE feature_id = 'x' WHERE 1
DELETE FROM tally.interactions WHERE 1
TRUNCATE TABLE tally.interactions
DROP TABLE tally.interactions
DROP DATABASE tally
OPTIMIZE TABLE tally.interactions
CREATE TABLE tally.more (a Int8) ENGINE = Memory
CREATE TEMPORARY TABLE more (a Int8)
CREATE DATABASE more
RENAME TABLE tally.topics TO tally.renamed
KILL QUERY WHERE 1
BACKUP DATABASE tally TO File('made')
SELECT * FROM tally.api_keys
SELECT hashed FROM tally.`api_keys`
SELECT count() FROM tally.api_keys
SELECT * FROM merge('tally', 'api')
SHOW CREATE TABLE tally.api_keys
SELECT * FROM system.processes
SELECT * FROM `system`.`processes`
SELECT * FROM "sys\x74em".processes
SELECT * FROM system.query_log
SELECT * FROM system.user_query_log
SELECT * FROM system.stack_trace
SELECT * FROM system.server_settings
SELECT 1 WHERE 1 IN system.processes
SELECT (SELECT any(query) FROM system.processes)
SHOW PROCESSLIST
SELECT * FROM loop(system, processes)
SELECT * FROM view(SELECT * FROM system.processes)
EXPLAIN SELECT * FROM system.processes
SET ROLE user_tally
SET ROLE ALL
SELECT 1; SET ROLE ALL
SELECT 1 SETTINGS readonly = 0
SELECT 1 SETTINGS max_threads = 1
""".strip().splitlines()
"""Statements that the analyst may not run."""

REVIEWED_SETTINGS = frozenset(
    [
        "s3_upload_checksum_algorithm",
        "s3queue_default_zookeeper_path",
        "stream_like_engine_insert_queue",
        "exclude_materialize_skip_indexes_on_insert",
        "ignore_data_skipping_indices",
        "force_data_skipping_indices",
        "network_compression_method",
        "count_distinct_implementation",
        "framing_output_format",
        "metrics_perf_events_list",
        "temporary_files_codec",
        "trace_profile_events_list",
        "log_comment",
        "send_logs_source_regexp",
        "force_optimize_projection_name",
        "preferred_optimize_projection_name",
        "query_cache_tag",
        "database",
        "default_format",
        "format",
        "input_format",
        "output_format",
        "compression",
        "local_filesystem_read_method",
        "remote_filesystem_read_method",
        "compatibility",
        "workload",
        "distributed_cache_client_id",
        "insert_deduplication_token",
        "default_view_definer",
        "iceberg_metadata_compression_method",
        "distributed_plan_force_exchange_kind",
        "chdb_client_name",
        "function_implementation",
        "input_format_orc_reader_time_zone_name",
        "column_names_for_schema_inference",
        "schema_inference_hints",
        "bool_true_representation",
        "bool_false_representation",
        "format_json_object_each_row_column_for_object_name",
        "output_format_pretty_grid_charset",
        "output_format_avro_codec",
        "output_format_avro_string_column_pattern",
        "output_format_avro_confluent_subject",
        "format_csv_null_representation",
        "format_tsv_null_representation",
        "errors_output_format",
        "format_schema_message_name",
        "format_template_row_format",
        "format_template_resultset_format",
        "format_template_rows_between_delimiter",
        "format_custom_field_delimiter",
        "format_custom_row_before_delimiter",
        "format_custom_row_after_delimiter",
        "format_custom_row_between_delimiter",
        "format_custom_result_before_delimiter",
        "format_custom_result_after_delimiter",
        "format_regexp",
        "output_format_orc_writer_time_zone_name",
        "input_format_mysql_dump_table_name",
        "output_format_sql_insert_table_name",
        "output_format_image_terminal_mode",
        "http_response_headers",
    ]
)
"""Settings with a text for a value that name neither a file, nor a machine, nor a part of a statement."""
