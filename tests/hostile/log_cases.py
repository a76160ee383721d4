"""Attacks through the log: batches that a client with the right to write to the topic can put there."""

import gzip
from contextlib import suppress
from random import Random
from typing import Any

import cramjam
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.codec import lz4_encode

from consumers.records import MOST_HEADERS
from consumers.worker import Worker
from runtime import kafka
from tally.dead_letters.reading import Selection, read_letters
from tests.hostile.accounts import DUPLICATE, AttackedTopic, attacked, balances
from tests.hostile.raw_producer import BatchRefused, RawRecord, batch_of, encode_batch, encode_records, varint
from tests.hostile.suite import Attack, named
from tests.hostile.worker_memory import drained
from tests.lab import Lab, as_json, execution_on
from tests.waiting import eventually_async

MIB = 1024 * 1024
GZIP, LZ4, ZSTD = 1, 3, 4
MOST_WORKER_MIB = 700
"""Memory bound of a worker with the default settings, for any content of the topic."""
NARROWED = "ALTER TABLE interactions MODIFY COLUMN metadata FixedString(10)"


async def gaps_in_offsets(lab: Lab, random: Random) -> Attack:
    """Events of others are stored at offsets that a record of an earlier batch claims."""
    async with attacked(lab) as log:
        await log.neighbours()
        for gap in (1, 40, 1_000, 2**31 - 2, random.randrange(1, 2**31 - 2)):
            records = [log.event(), log.event()._replace(delta=1 + gap), log.event()]
            await log.send(batch_of(records), [None, "bad_record", None])
            await log.neighbours(50)
        await log.drain()
        return Attack(log.records)


async def equal_offsets(lab: Lab, random: Random) -> Attack:
    """No record is lost when several of a batch name the same offset."""
    async with attacked(lab) as log:
        for same in (0, 2, random.randrange(5)):
            await log.neighbours()
            records = [log.event()._replace(delta=same) for _ in range(5)]
            await log.send(batch_of(records), [None if place == same else "bad_record" for place in range(5)])
        await log.drain()
        return Attack(log.records)


async def shuffled_offsets(lab: Lab, random: Random) -> Attack:
    """A record keeps its own place if it names another offset, a negative one, or one out of range."""
    async with attacked(lab) as log:
        for _ in range(5):
            count = random.randrange(2, 40)
            deltas = random.sample([*range(count), -1, -(2**31), 2**31 - 1], count)
            records = [log.event()._replace(delta=delta) for delta in deltas]
            reasons = [None if delta == place else "bad_record" for place, delta in enumerate(deltas)]
            await log.send(batch_of(records), reasons)
            await log.neighbours(random.randrange(1, 30))
        await log.drain()
        return Attack(log.records)


async def bytes_after_the_last_frame(lab: Lab, random: Random) -> Attack:
    """A batch that brokers take and that cannot be read is rejected offset by offset, and the worker continues."""
    async with attacked(lab) as log:
        for codec, compress in ((GZIP, gzip.compress), (LZ4, lz4_encode)):
            await log.neighbours()
            count = random.randrange(1, 200)
            payload = bytes(compress(encode_records([log.event() for _ in range(count)]))) + random.randbytes(5)
            await log.send(encode_batch(payload, count, attributes=codec), ["bad_batch"] * count)
        await log.neighbours()
        await log.drain()
        return Attack(log.records)


async def beginning_within_a_batch(lab: Lab, random: Random) -> Attack:
    """A worker that begins within a batch that cannot be read comes to the same outcomes as one that read it whole."""
    async with attacked(lab) as log:
        payload = lz4_encode(encode_records([log.event() for _ in range(30)])) + b"left"
        await log.send(encode_batch(payload, 30, attributes=LZ4), ["bad_batch"] * 30)
        await log.send(batch_of([log.event()._replace(delta=29 - place) for place in range(30)]), ["bad_record"] * 30)
        await log.neighbours()
        for end in sorted(random.sample(range(1, 60), 3)):
            others = dict.fromkeys(range(1, lab.settings.partitions), 0)
            await Worker(
                lab.settings, instance=None, until_caught_up=True, ends={AttackedTopic.PARTITION: end, **others}
            ).run()
        await log.drain()
        return Attack(log.records)


async def repeated_reading(lab: Lab, random: Random) -> Attack:
    """Records that are read again, because the table refused a row, get the same outcomes."""
    async with attacked(lab) as log:
        await lab.database.command(NARROWED)
        refused = RawRecord(as_json(execution=execution_on(0, "refused"), metadata={"longer": "than the column"}))
        records = [log.event(), refused, log.event()._replace(delta=random.randrange(3, 99)), log.event()]
        await log.send(batch_of(records), [None, "refused_by_table", "bad_record", None])
        payload = lz4_encode(encode_records([log.event()])) + b"left"
        await log.send(encode_batch(payload, 1, attributes=LZ4), ["bad_batch"])
        await log.neighbours()
        await log.drain()
        return Attack(log.records)


async def aborted_transactions(lab: Lab, random: Random) -> Attack:
    """The audit counts every offset of a hostile batch as a record, and no transaction marker."""
    async with attacked(lab) as log:
        place: Any = {"topic": lab.settings.topic, "partition": AttackedTopic.PARTITION}
        options = {"bootstrap_servers": lab.settings.kafka, "transactional_id": lab.settings.topic}
        async with AIOKafkaProducer(**options) as producer:
            for _ in range(3):
                await log.send(batch_of([log.event()._replace(delta=random.randrange(1, 20))]), ["bad_record"])
                await producer.begin_transaction()
                await producer.send_and_wait(value=b"given up", **place)
                await producer.abort_transaction()
        async with kafka.offset_reader(lab.settings) as client:

            async def has_ended() -> bool:
                """A transaction's marker is written after its end is acknowledged."""
                (end,) = (await client.end_offsets([TopicPartition(**place)])).values()
                return int(end) == log.records + 6

            await eventually_async(has_ended)
        await log.neighbours()
        await log.drain()
        return Attack(log.records)


async def header_names_of_bytes(lab: Lab, random: Random) -> Attack:
    """A header name that is not UTF-8 stops nothing, and a dead letter keeps it byte for byte."""
    names = [random.randbytes(random.randrange(1, 12)) for _ in range(20)]
    names += [
        b"\xff",
        b"a\xffb",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"",
        b"tally-letter-reason",
        b"tally-letter-raw-name-ff",
    ]
    async with attacked(lab) as log:
        for name in names:
            event = log.event()
            twice = [*event.headers, (name, b"1"), (name, None)]
            await log.send(batch_of([event._replace(headers=twice)]), [None])
            await log.send(batch_of([RawRecord(b"no event", headers=twice)]), ["not_json"])
        await log.neighbours()
        await log.drain()
        kept = [
            [(header.encode(errors="surrogateescape"), value) for header, value in letter.headers[1:]]
            async for letter in read_letters(lab.settings, Selection())
        ]
        assert kept == [[(name, b"1"), (name, None)] for name in names], kept
        return Attack(log.records)


async def records_with_too_many_headers(lab: Lab, random: Random) -> Attack:
    """Records with very many headers become dead letters with their values, and those of others are stored."""
    async with attacked(lab) as log:
        many = [(random.randbytes(2), None)] * (MOST_HEADERS + 1)
        for count in (2 * MOST_HEADERS, 200_000):
            await log.neighbours()
            flood = RawRecord(b"kept", headers=[(b"n", b"")] * count)
            event = log.event()
            await log.send(batch_of([flood, event._replace(headers=many), event]), ["bad_record", "bad_record", None])
        await log.drain()
        assert {letter.value for letter in [each async for each in read_letters(lab.settings, Selection())]} >= {
            b"kept"
        }
        return Attack(log.records)


async def records_larger_than_events(lab: Lab, random: Random) -> Attack:
    """A record that no event can be is a dead letter with all its bytes where they fit, else by place."""
    async with attacked(lab) as log:
        await log.neighbours()
        plain = b'{"a":' + b"[" * 3 * MIB
        block = random.randbytes(MIB // 2)  # alike over a distance at which zstd sees it, and the letter's lz4 does not
        for value in (plain, block * 8):
            payload = cramjam.zstd.compress(encode_records([RawRecord(value), log.event()]))
            await log.send(encode_batch(bytes(payload), 2, attributes=ZSTD), ["too_large", None])
        await log.neighbours()
        await log.drain()
        letters = [letter async for letter in read_letters(lab.settings, Selection())]
        assert [letter.value for letter in letters] == [plain, None]
        assert "too large for a dead letter" in letters[1].message
        return Attack(log.records)


async def batches_larger_than_their_bound(lab: Lab, random: Random) -> Attack:
    """A batch above the bound, in any codec, is rejected by place, and those before and after it are stored."""
    async with attacked(lab) as log:
        for codec, compress in ((GZIP, gzip.compress), (LZ4, lz4_encode), (ZSTD, cramjam.zstd.compress)):
            await log.neighbours(random.randrange(1, 30))
            payload = compress(encode_records([RawRecord(b"x" * MIB), log.event(), RawRecord(b"x" * MIB)]))
            await log.send(encode_batch(bytes(payload), 3, attributes=codec), ["batch_too_large"] * 3)
        await log.neighbours()
        await log.drain(batch_uncompressed_bytes=2 * MIB)
        return Attack(log.records)


def _bomb(size: int) -> bytes:
    """A zstd batch with one record of this size in bytes, made without as much memory."""
    chunk = b"x" * (4 * MIB)
    tail = varint(0)
    body_head = b"\0" + varint(0) + varint(0) + varint(-1) + varint(size)
    compressor = cramjam.zstd.Compressor(3)
    compressor.compress(varint(len(body_head) + size + len(tail)) + body_head)
    for _ in range(size // len(chunk)):
        compressor.compress(chunk)
    compressor.compress(tail)
    return encode_batch(bytes(compressor.finish()), 1, attributes=ZSTD)


async def decompression_bombs(lab: Lab, random: Random) -> Attack:
    """A worker's memory stays bounded, however large batches become uncompressed."""
    async with attacked(lab) as log:
        bomb = _bomb(320 * MIB)
        for _ in range(2):
            await log.neighbours(random.randrange(1, 30))
            await log.send(bomb, ["batch_too_large"])
        almost = cramjam.zstd.compress(encode_records([RawRecord(b"y" * 30 * MIB), RawRecord(b"z" * 30 * MIB)]))
        for _ in range(3):
            await log.send(encode_batch(bytes(almost), 2, attributes=ZSTD), ["too_large"] * 2)
        await log.neighbours()
        return await _by_a_process(log)


async def _by_a_process(log: AttackedTopic) -> Attack:
    """Let a separate worker read to the end of the topic, and check its memory."""
    ended = await drained(log.lab.settings)
    assert ended.exit_code == 0, ended.output
    assert ended.peak_mib < MOST_WORKER_MIB, f"the worker took {ended.peak_mib:.0f} MiB"
    await log.check()
    return Attack(log.records, f"a worker's peak memory: {ended.peak_mib:.0f} MiB")


async def very_many_tiny_records(lab: Lab, random: Random) -> Attack:
    """A worker's memory stays bounded, and all is accounted for, however many records a batch has."""
    async with attacked(lab) as log:
        await log.neighbours()
        count = random.randrange(66_000, 90_000)  # more than one read returns
        payload = cramjam.zstd.compress(encode_records([log.event()] * count))
        await log.send(encode_batch(bytes(payload), count, attributes=ZSTD), [None] + [DUPLICATE] * (count - 1))
        await log.neighbours()
        return await _by_a_process(log)


async def batches_damaged_at_random(lab: Lab, random: Random) -> Attack:
    """Every batch that a broker accepts is accounted for, and the events of others are stored."""
    async with attacked(lab) as log:
        taken = 0
        for _ in range(100):
            records = [log.event() for _ in range(random.randrange(1, 6))]
            body = bytearray(encode_records(records))
            for _ in range(random.randrange(1, 4)):
                body[random.randrange(len(body))] = random.randrange(256)
            attributes = random.choice((0, 0, 0, 0, random.randrange(2**15)))
            batch = encode_batch(bytes(body), len(records), attributes=attributes, first_ms=random.getrandbits(62))
            with suppress(BatchRefused):
                await log.send(batch, [""] * len(records))
                taken += 1
            if random.random() < 0.1:
                await log.neighbours(3)
        assert taken
        await lab.drain()
        stored = set(await lab.rows("SELECT _partition, _offset FROM interactions FINAL"))
        assert log.stored <= stored
        await balances(lab, log.records)
        return Attack(log.records)


REFUSED = {
    "no records": encode_batch(b"", 0),
    "a negative number of records": encode_batch(encode_records([RawRecord()]), -1),
    "more records than there are": encode_batch(encode_records([RawRecord()]), 2**30),
    "more offsets than records": encode_batch(encode_records([RawRecord()]), 1, last_delta=40),
    "fewer offsets than records": encode_batch(encode_records([RawRecord()] * 2), 2, last_delta=0),
    "bytes after its records": encode_batch(encode_records([RawRecord()]) + b"left", 1),
    "a codec that is none": encode_batch(encode_records([RawRecord()]), 1, attributes=5),
    "a control record": encode_batch(encode_records([RawRecord()]), 1, attributes=0x20),
    "a size below the record's": batch_of([RawRecord(size=3)]),
    "a size beyond the batch's end": batch_of([RawRecord(size=1_000)]),
    "a header without a name": batch_of([RawRecord(headers=[(None, b"1")])]),
    "more headers than there are": batch_of([RawRecord(header_count=3)]),
    "offsets that do not rise, compressed": encode_batch(
        bytes(lz4_encode(encode_records([RawRecord(delta=7)]))), 1, attributes=LZ4
    ),
}


async def batches_that_brokers_refuse(lab: Lab, random: Random) -> Attack:
    """The broker refuses a batch whose header contradicts its records; `test_hostile_batches` reads such batches."""
    async with attacked(lab) as log:
        for what in random.sample(sorted(REFUSED), len(REFUSED)):
            with suppress(BatchRefused):
                await log.send(REFUSED[what], ["bad_batch"])
                raise AssertionError(f"the broker took a batch with {what}")
        await log.neighbours()
        await log.drain()
        return Attack(log.records)


CASES = named(
    gaps_in_offsets,
    equal_offsets,
    shuffled_offsets,
    bytes_after_the_last_frame,
    beginning_within_a_batch,
    repeated_reading,
    aborted_transactions,
    header_names_of_bytes,
    records_with_too_many_headers,
    records_larger_than_events,
    batches_larger_than_their_bound,
    decompression_bombs,
    very_many_tiny_records,
    batches_damaged_at_random,
    batches_that_brokers_refuse,
)
