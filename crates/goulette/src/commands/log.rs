//! `goulette log`: looks at the data folder of a broker that does not run.

use std::{
    io::{self, BufWriter, Write},
    ops::ControlFlow,
    path::Path,
};

use goulette_env::Env;
use goulette_log::{Dumped, Inspection, Selection};
use goulette_records::{Batch, BatchError, Limits};
use goulette_types::{Offset, PartitionIndex};
use goulette_wal::WalPosition;
use serde_json::{Value, json};

use super::client::print::{record_json, time};
use crate::{
    cli::{DirFlags, DumpFlags, LogCommand},
    exit::Failure,
    output::{Output, Table, print, print_json},
};

pub(crate) fn run(command: LogCommand) -> Result<(), Failure> {
    match command {
        LogCommand::Dump(flags) => dump(flags),
        LogCommand::Verify(flags) => verify(&flags),
        LogCommand::Stats(flags) => stats(&flags),
    }
}

fn open(dir: &Path) -> Result<Inspection, Failure> {
    Inspection::open(&Env::real(), dir).map_err(Failure::failed)
}

/// What cannot be read is not among what is shown.
fn warn_of_damage(inspection: &Inspection, dir: &Path) {
    if inspection.contents().damages > 0 {
        eprintln!("warning: this is not all, something is damaged: run goulette log verify {}", dir.display());
    }
}

fn stats(flags: &DirFlags) -> Result<(), Failure> {
    let inspection = open(&flags.dir)?;
    warn_of_damage(&inspection, &flags.dir);
    let contents = inspection.contents();
    let wal = &contents.wal;
    let position = |position: Option<WalPosition>| position.map(|position| position.to_string());
    if flags.output == Output::Json {
        let partitions = contents.partitions.iter().map(|partition| {
            json!({
                "topic": partition.topic.as_str(),
                "topic_id": partition.id.topic.to_string(),
                "partition": partition.id.index.0,
                "start": partition.start.0,
                "end": partition.end.0,
                "fragments": partition.fragments,
                "fragment_bytes": partition.fragment_bytes,
                "wal_batches": partition.wal_batches,
                "wal_bytes": partition.wal_bytes,
            })
        });
        return print_json(&json!({
            "broker": contents.broker.as_ref().map(ToString::to_string),
            "checkpoint": contents.checkpoint.map(time),
            "partitions": partitions.collect::<Vec<_>>(),
            "wal": {
                "segments": wal.segments,
                "spares": wal.spares,
                "bytes": wal.bytes,
                "from": position(wal.from),
                "end": position(wal.end),
                "tail_entries": wal.tail_entries,
                "tail_bytes": wal.tail_bytes,
                "torn": wal.torn,
            },
            "damages": contents.damages,
        }));
    }
    let unknown = || "unknown".to_owned();
    let mut text = format!(
        "broker      {}\ncheckpoint  {}\nwal         {} segments and {} spare files, {} bytes\ntail        {} to {}: {} entries, {} bytes{}\n\n",
        contents.broker.as_ref().map_or_else(unknown, ToString::to_string),
        contents.checkpoint.map_or_else(unknown, time),
        wal.segments,
        wal.spares,
        wal.bytes,
        position(wal.from).unwrap_or_else(|| "beginning".to_owned()),
        position(wal.end).unwrap_or_else(unknown),
        wal.tail_entries,
        wal.tail_bytes,
        if wal.torn { ", then an unfinished write that was never acknowledged" } else { "" },
    );
    let headings = ["topic", "partition", "start", "end", "fragments", "bytes", "wal batches", "wal bytes", "topic id"];
    let mut table = Table::new(&headings);
    for partition in &contents.partitions {
        table.row([
            partition.topic.to_string(),
            partition.id.index.to_string(),
            partition.start.to_string(),
            partition.end.to_string(),
            partition.fragments.to_string(),
            partition.fragment_bytes.to_string(),
            partition.wal_batches.to_string(),
            partition.wal_bytes.to_string(),
            partition.id.topic.to_string(),
        ]);
    }
    text += &table.to_string();
    print(&text)
}

fn verify(flags: &DirFlags) -> Result<(), Failure> {
    let verified = open(&flags.dir)?.verify();
    match flags.output {
        Output::Json => {
            let damages = verified.damages.iter().map(|damage| {
                json!({ "file": damage.file.display().to_string(), "position": damage.position, "reason": damage.reason })
            });
            print_json(&json!({
                "sound": verified.damages.is_empty(),
                "fragments": verified.fragments,
                "batches": verified.batches,
                "records": verified.records,
                "bytes": verified.bytes,
                "damages": damages.collect::<Vec<_>>(),
            }))?;
        }
        Output::Text => {
            let mut text = String::new();
            for damage in &verified.damages {
                text += &format!("{} at byte {}: {}\n", damage.file.display(), damage.position, damage.reason);
            }
            text += &format!(
                "{} fragments, {} sound batches, {} records, {} bytes\n",
                verified.fragments, verified.batches, verified.records, verified.bytes
            );
            print(&text)?;
        }
    }
    match verified.damages.len() {
        0 => Ok(()),
        1 => Err(Failure::failed(format_args!("1 place in {} is damaged", flags.dir.display()))),
        count => Err(Failure::failed(format_args!("{count} places in {} are damaged", flags.dir.display()))),
    }
}

fn dump(flags: DumpFlags) -> Result<(), Failure> {
    let inspection = open(&flags.dir.dir)?;
    warn_of_damage(&inspection, &flags.dir.dir);
    let selection =
        Selection { topic: flags.topic, partition: flags.partition.map(PartitionIndex), from: Offset(flags.from) };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    let mut left = flags.count.unwrap_or(u64::MAX);
    inspection.dump(&selection, &mut |dumped| {
        written = match flags.dir.output {
            Output::Json => writeln!(out, "{}", batch_json(&dumped, flags.records)),
            Output::Text => print_batch(&mut out, &dumped, &flags.dir.dir, flags.records),
        };
        left -= 1;
        if left == 0 || written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match written.and_then(|()| out.flush()) {
        // A reader that has gone away (`| head`) is content.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format_args!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn print_batch(out: &mut impl Write, dumped: &Dumped<'_>, dir: &Path, records: bool) -> io::Result<()> {
    let file = dumped.file.strip_prefix(dir).unwrap_or(dumped.file).display();
    let (topic, partition) = (dumped.topic, dumped.id.index);
    let batch = match &dumped.batch {
        Ok(batch) => batch,
        Err(reason) => {
            return writeln!(out, "{topic}/{partition} DAMAGED at {file}:{}: {reason}", dumped.position);
        }
    };
    let epoch = batch.leader_epoch().map_or("none".to_owned(), |epoch| epoch.to_string());
    let producer = batch.producer().map_or("none".to_owned(), |producer| {
        let (first, last) = (producer.base_sequence, producer.last_sequence);
        format!("{} producer-epoch={} sequence={first}..={last}", producer.id.0, producer.epoch)
    });
    writeln!(
        out,
        "{topic}/{partition} {}..{} epoch={epoch} codec={} producer={producer} time={} max-time={} bytes={} crc=ok \
         at={file}:{}",
        batch.base_offset(),
        batch.next_offset(),
        batch.compression(),
        time(batch.header().base_timestamp),
        time(batch.max_timestamp()),
        batch.encoded_bytes(),
        dumped.position,
    )?;
    if records {
        match records_json(batch, dumped.id.index) {
            Ok(records) => records.iter().try_for_each(|record| writeln!(out, "  {record}"))?,
            Err(error) => writeln!(out, "  cannot be decoded: {error}")?,
        }
    }
    Ok(())
}

fn batch_json(dumped: &Dumped<'_>, records: bool) -> Value {
    let mut object = json!({
        "topic": dumped.topic.as_str(),
        "topic_id": dumped.id.topic.to_string(),
        "partition": dumped.id.index.0,
        "file": dumped.file.display().to_string(),
        "position": dumped.position,
        "crc_ok": dumped.batch.is_ok(),
    });
    match &dumped.batch {
        Err(reason) => object["damage"] = reason.as_str().into(),
        Ok(batch) => {
            object["start"] = batch.base_offset().0.into();
            object["end"] = batch.next_offset().0.into();
            object["leader_epoch"] = batch.leader_epoch().map(|epoch| epoch.0).into();
            object["codec"] = batch.compression().name().into();
            object["producer"] = batch.producer().map_or(Value::Null, |producer| {
                json!({
                    "id": producer.id.0,
                    "epoch": producer.epoch.0,
                    "base_sequence": producer.base_sequence,
                    "last_sequence": producer.last_sequence,
                })
            });
            object["base_timestamp"] = time(batch.header().base_timestamp).into();
            object["max_timestamp"] = time(batch.max_timestamp()).into();
            object["bytes"] = batch.encoded_bytes().into();
            if records {
                match records_json(batch, dumped.id.index) {
                    Ok(records) => object["records"] = records.into(),
                    Err(error) => object["records_damage"] = error.to_string().into(),
                }
            }
        }
    }
    object
}

fn records_json(batch: &Batch, partition: PartitionIndex) -> Result<Vec<Value>, BatchError> {
    let records = batch.decode(&Limits::WIDEST)?;
    Ok(records.iter().map(|record| record_json(partition, record)).collect())
}
