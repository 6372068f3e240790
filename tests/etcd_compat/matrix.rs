//! Every command of etcdctl, several versions of it, each output format: the same words from us as from a real etcd.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::server::{Launch, Server};

const SCRIPT: &str = include_str!("etcdctl.txt");
const FORMATS: [&str; 4] = ["simple", "json", "table", "fields"];
/// Long enough for a background command to connect, and to print what it was sent.
const SETTLE: Duration = Duration::from_millis(700);
const DEADLINE: Duration = Duration::from_secs(20);

struct Side {
    server: Server,
    dir: tempfile::TempDir,
    names: BTreeMap<String, String>,
    background: Vec<(Child, PathBuf)>,
}

/// One line of the script.
struct Line<'a> {
    arguments: Vec<String>,
    input: Option<String>,
    name: Option<&'a str>,
    background: bool,
    simple: bool,
}

/// Runs the script with one etcdctl and returns the number of lines that were answered differently.
pub(crate) fn run(etcdctl: &Path, launches: (&Launch, &Launch), dir: &Path, show: bool) -> Result<(usize, usize)> {
    let (mut lines, mut different) = (0, 0);
    for format in FORMATS {
        let mut sides = [Side::start(launches.0, dir)?, Side::start(launches.1, dir)?];
        for text in SCRIPT.lines().filter(|line| !line.starts_with('#')) {
            let line = parse(text);
            if line.simple && format != "simple" {
                continue;
            }
            lines += 1;
            let mut answers = Vec::new();
            let mut running = Vec::new();
            if text == "stop" {
                std::thread::sleep(SETTLE);
                for side in &mut sides {
                    answers.push(side.stop()?);
                }
            } else {
                for side in &mut sides {
                    running.push(side.spawn(etcdctl, format, &line)?);
                }
                for (side, (child, out)) in sides.iter_mut().zip(running) {
                    if line.background {
                        side.background.push((child, out));
                    } else {
                        answers.push(side.finish(child, &out, line.name)?);
                    }
                }
                if line.background {
                    std::thread::sleep(SETTLE);
                    continue;
                }
            }
            if show {
                println!("$ {text}\n{}", answers[0]);
            }
            if answers[0] != answers[1] {
                different += 1;
                println!("{} -w {format}: {text}", etcdctl.display());
                println!("  reference: {}\n  candidate: {}", indent(&answers[0]), indent(&answers[1]));
            }
        }
    }
    Ok((lines, different))
}

impl Side {
    fn start(launch: &Launch, dir: &Path) -> Result<Self> {
        Ok(Self {
            server: Server::start(launch, dir)?,
            dir: tempfile::tempdir_in(dir)?,
            names: BTreeMap::new(),
            background: Vec::new(),
        })
    }

    fn spawn(&mut self, etcdctl: &Path, format: &str, line: &Line<'_>) -> Result<(Child, PathBuf)> {
        let out = self.dir.path().join(format!("out-{}", self.background.len()));
        let file = File::create(&out)?;
        let format = if line.name.is_some() { "simple" } else { format };
        let mut command = Command::new(etcdctl);
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=127.0.0.1:{}", self.server.client_port))
            .args(["-w", format])
            .args(line.arguments.iter().map(|argument| self.expand(argument)))
            .stdin(if line.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(file.try_clone()?)
            .stderr(file);
        let mut child = command.spawn().with_context(|| format!("cannot run {}", etcdctl.display()))?;
        if let (Some(input), Some(mut stdin)) = (&line.input, child.stdin.take()) {
            // A command that fails before it reads is judged by what it says.
            let _ = stdin.write_all(input.as_bytes());
        }
        Ok((child, out))
    }

    fn expand(&self, argument: &str) -> String {
        let mut argument = argument.replace("$DIR", &self.dir.path().display().to_string());
        for (name, value) in &self.names {
            argument = argument.replace(&format!("${name}"), value);
        }
        argument
    }

    fn finish(&mut self, mut child: Child, out: &Path, name: Option<&str>) -> Result<String> {
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break format!("exit code {:?}", status.code());
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                break "no end".to_owned();
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let text = std::fs::read_to_string(out)?;
        if let Some(name) = name {
            let id = words(&text).find(|word| is_id(word)).unwrap_or("none").to_owned();
            self.names.insert(name.to_owned(), id);
        }
        Ok(format!("{}{status}", self.mask(&text)))
    }

    fn stop(&mut self) -> Result<String> {
        let mut told = String::new();
        for (mut child, out) in std::mem::take(&mut self.background) {
            child.kill()?;
            child.wait()?;
            told += &format!("{}--\n", self.mask(&std::fs::read_to_string(out)?));
        }
        Ok(told)
    }

    fn mask(&self, text: &str) -> String {
        let text = text
            .replace(&format!("127.0.0.1:{}", self.server.client_port), "CLIENT")
            .replace(&format!("127.0.0.1:{}", self.server.peer_port), "PEER")
            .replace(&self.dir.path().display().to_string(), "DIR");
        let mut out = String::new();
        let mut masked_columns: Vec<bool> = Vec::new();
        for line in text.lines() {
            // What etcdctl logs about its connection is for people.
            if line.starts_with('{') && line.contains("\"level\":") {
                continue;
            }
            if line.starts_with("+--") {
                continue;
            }
            // Some commands of etcdctl fall over in some formats; their stacks differ.
            if line.starts_with("goroutine ") {
                break;
            }
            if let Some(row) = line.strip_prefix('|') {
                let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
                if cells.iter().any(|cell| MASKED.contains(cell)) {
                    masked_columns = cells.iter().map(|cell| MASKED.contains(cell)).collect();
                    out += &format!("{}\n", cells.join(" | "));
                    continue;
                }
                let masked = |(index, cell)| {
                    if masked_columns.get(index) == Some(&true) { "#".into() } else { mask_words(cell) }
                };
                out += &format!("{}\n", cells.into_iter().enumerate().map(masked).collect::<Vec<String>>().join(" | "));
                continue;
            }
            masked_columns.clear();
            out += &mask_line(line);
            out.push('\n');
        }
        out
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        for (child, _) in &mut self.background {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What depends on the moment or on the store's own layout, as json, fields and the heads of tables name it.
const MASKED: [&str; 26] = [
    "raft_term",
    "RaftTerm",
    "raftTerm",
    "raftIndex",
    "RaftIndex",
    "raftAppliedIndex",
    "RaftAppliedIndex",
    "dbSize",
    "DBSize",
    "dbSizeInUse",
    "DBSizeInUse",
    "ttl",
    "TTL",
    "took",
    "Took",
    "leader",
    "Leader",
    "DB SIZE",
    "IN USE",
    "PERCENTAGE NOT IN USE",
    "RAFT TERM",
    "RAFT INDEX",
    "RAFT APPLIED INDEX",
    "TOOK",
    "SIZE",
    "TOTAL SIZE",
];

fn mask_line(line: &str) -> String {
    let mut line = line.to_owned();
    for key in MASKED {
        for separator in ["\":", "\" : "] {
            let needle = format!("\"{key}{separator}");
            let mut from = 0;
            while let Some(at) = line[from..].find(&needle) {
                let start = from + at + needle.len();
                let end = line[start..].find([',', '}']).map_or(line.len(), |length| start + length);
                line.replace_range(start..end, "#");
                from = start;
            }
        }
    }
    for (before, after) in [("took = ", ""), ("took ", ""), ("remaining(", ")")] {
        if let Some(at) = line.find(before) {
            let start = at + before.len();
            let end = if after.is_empty() { None } else { line[start..].find(after) };
            line.replace_range(start..end.map_or(line.len(), |length| start + length), "#");
        }
    }
    // `snapshot status` begins with a checksum over what differs between any two servers, and ends with the size.
    if let [hash, revision, keys, _] = line.split(", ").collect::<Vec<_>>()[..]
        && hash.len() <= 8
        && hash.chars().all(|char| char.is_ascii_hexdigit())
    {
        return format!("#, {revision}, {keys}, #");
    }
    // `endpoint status` in the simple format is a list without names.
    if line.contains("CLIENT, ") {
        let cells = line.split(", ").map(|cell| {
            let number = cell.chars().all(|char| char.is_ascii_digit()) && !cell.is_empty();
            let size = [" kB", " MB", " B", "%"].iter().any(|unit| cell.ends_with(unit));
            if number || size { "#".into() } else { mask_words(cell) }
        });
        return cells.collect::<Vec<_>>().join(", ");
    }
    mask_words(&line)
}

/// Ids are long numbers, decimal or hexadecimal, that each server draws for itself.
fn mask_words(text: &str) -> String {
    let mut out = text.to_owned();
    for word in words(text).filter(|word| is_id(word)) {
        out = out.replace(word, "ID");
    }
    out
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|char: char| !char.is_ascii_alphanumeric())
}

fn is_id(word: &str) -> bool {
    word.len() >= 13
        && word.chars().all(|char| char.is_ascii_hexdigit())
        && word.chars().any(|char| char.is_ascii_digit())
}

fn parse(text: &str) -> Line<'_> {
    let (simple, text) = match text.strip_prefix("simple: ") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (background, text) = match text.strip_suffix(" &") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (text, name) = text.split_once(" => ").map_or((text, None), |(text, name)| (text, Some(name)));
    let (text, input) =
        text.split_once(" < ").map_or((text, None), |(text, input)| (text, Some(input.replace("\\n", "\n"))));
    let arguments = text.split(' ').map(|argument| argument.replace("\"\"", "")).collect();
    Line { arguments, input, name, background, simple }
}

fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n             ")
}
