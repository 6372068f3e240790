//! `goulette cluster export` and `import`: metadata out of one cluster, into another.

use std::{
    io::{self, Write},
    path::Path,
};

use goulette_client::ExportError;
use serde_json::json;

use super::super::connect;
use crate::{
    cli::{ExportFlags, ImportFlags},
    exit::Failure,
    output::{Output, print, print_json},
};

#[allow(clippy::disallowed_methods, reason = "a file of the user's, beside any data")]
pub(super) async fn export(flags: &ExportFlags) -> Result<(), Failure> {
    let cluster = connect(&flags.cluster.sentinel).await?.cluster();
    let path = &flags.file;
    if path == Path::new("-") {
        let mut stdout = io::stdout().lock();
        let exported = cluster.export(|piece| stdout.write_all(&piece)).await;
        return exported.map_err(|error| failed(error, "standard output"));
    }
    let name = path.display().to_string();
    let cannot = |error: io::Error| Failure::failed(format_args!("cannot write {name}: {error}"));
    if path.exists() {
        return Err(Failure::failed(format_args!("{name} exists: name another file")));
    }
    // Whole or not at all under its name.
    let mut part = path.clone().into_os_string();
    part.push(".part");
    let mut file = std::fs::File::create(&part).map_err(cannot)?;
    let mut bytes = 0;
    let exported = cluster
        .export(|piece| {
            bytes += piece.len();
            file.write_all(&piece)
        })
        .await;
    let written = exported.map_err(|error| failed(error, &name)).and_then(|()| file.sync_all().map_err(cannot));
    if let Err(failure) = written.and_then(|()| std::fs::rename(&part, path).map_err(cannot)) {
        let _ = std::fs::remove_file(&part);
        return Err(failure);
    }
    match flags.cluster.output {
        Output::Text => print(&format!("{name} holds the metadata: {bytes} bytes\n")),
        Output::Json => print_json(&json!({ "file": name, "bytes": bytes })),
    }
}

fn failed(error: ExportError, name: &str) -> Failure {
    match error {
        ExportError::Client(error) => error.into(),
        ExportError::Take(error) => Failure::failed(format_args!("cannot write {name}: {error}")),
    }
}

#[allow(clippy::disallowed_methods, reason = "a file of the user's, beside any data")]
pub(super) async fn import(flags: &ImportFlags) -> Result<(), Failure> {
    let name = flags.file.display();
    let export = std::fs::read(&flags.file)
        .map_err(|error| Failure::failed(format_args!("cannot read {name}: {error}")))?
        .into();
    let imported = connect(&flags.cluster.sentinel).await?.cluster().import(&export).await?;
    match flags.cluster.output {
        Output::Text => print(&format!(
            "imported {} topics, {} partitions and {} operations\n",
            imported.topics, imported.partitions, imported.operations
        )),
        Output::Json => print_json(&json!({
            "topics": imported.topics,
            "partitions": imported.partitions,
            "operations": imported.operations,
            "generation": imported.generation,
        })),
    }
}
