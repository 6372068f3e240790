//! Settings of a role from four layers: flags beat `GOULETTE_*` variables, which beat a file (`-config FILE`, TOML), which
//! beats the defaults.
//!
//! The flags are the list of all settings. What variables and file say becomes the default of its flag before the command
//! line is parsed, so that the command line overrides it, and every value passes the same checks, wherever it stands.

mod file;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, Command, builder::OsStr as ClapStr, parser::ValueSource};

/// The commands that have settings.
pub(crate) const ROLES: [&str; 3] = ["broker", "sentinel", "client"];

/// Flags that say what to do now, and not how: neither in a file nor in a variable.
const ONLY_FLAGS: [&str; 9] = ["config", "mode", "message", "file", "from", "count", "until-end", "help", "version"];

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Flag,
    Variable(String),
    File(PathBuf),
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => out.write_str("flag"),
            Self::Variable(name) => out.write_str(name),
            Self::File(path) => path.display().fmt(out),
            Self::Default => out.write_str("default"),
        }
    }
}

/// Why settings cannot be used; prints as what is wrong and where.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not TOML: {reason}", path = .path.display())]
    Syntax { path: PathBuf, reason: String },
    #[error("{path}: there is no [{table}]: sections are {}", ROLES.join(", "), path = .path.display())]
    Table { path: PathBuf, table: String },
    #[error("{path}: [{role}] has no key {key:?}: keys are {keys}", path = .path.display())]
    Key { path: PathBuf, role: String, key: String, keys: String },
    #[error("{path}: {role}.{key}: {reason}", path = .path.display())]
    Kind { path: PathBuf, role: String, key: String, reason: &'static str },
    #[error("{source}: {key}: {reason}", source = .from)]
    Value { from: Source, key: String, reason: String },
}

/// One layer's word on a flag.
#[derive(Debug)]
struct Setting {
    values: Vec<OsString>,
    source: Source,
}

/// What file and variables say about the flags of one role, by the flag's name.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    by_flag: BTreeMap<String, Setting>,
}

impl Settings {
    /// Reads the layers below the command line for the role that `argv` (normalised) calls; none for other commands.
    pub(crate) fn gather(
        argv: &[OsString],
        command: &Command,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Option<(String, Settings)>, SettingsError> {
        let role = argv.get(1).and_then(|name| name.to_str()).filter(|name| ROLES.contains(name));
        let Some(role) = role.and_then(|name| command.find_subcommand(name)) else { return Ok(None) };
        let path = config_path(argv).or_else(|| variable("GOULETTE_CONFIG")).map(PathBuf::from);
        let mut settings = Settings::default();
        if let Some(path) = path {
            settings.read_file(&path, role, command)?;
        }
        settings.read_variables(role, variable);
        settings.check(role)?;
        Ok(Some((role.get_name().to_owned(), settings)))
    }

    /// Checks a whole file: every section, every key, every value.
    pub(crate) fn check_file(path: &Path, command: &Command) -> Result<(), SettingsError> {
        for role in ROLES.iter().filter_map(|name| command.find_subcommand(name)) {
            let mut settings = Settings::default();
            settings.read_file(path, role, command)?;
            settings.check(role)?;
        }
        Ok(())
    }

    fn read_file(&mut self, path: &Path, role: &Command, command: &Command) -> Result<(), SettingsError> {
        for (flag, values) in file::read(path, role, command)? {
            self.by_flag.insert(flag, Setting { values, source: Source::File(path.to_owned()) });
        }
        Ok(())
    }

    /// `GOULETTE_BROKER_LOG_LEVEL` beats `GOULETTE_LOG_LEVEL`, which speaks to all roles. Other variables of that prefix
    /// are not ours to judge: Kubernetes makes some for every service.
    fn read_variables(&mut self, role: &Command, variable: &dyn Fn(&str) -> Option<OsString>) {
        for (flag, arg) in layered(role) {
            let [own, common] = variable_names(role, flag);
            let found = variable(&own).map(|value| (own, value));
            if let Some((name, value)) = found.or_else(|| variable(&common).map(|value| (common, value))) {
                let setting = Setting { values: split(arg, &value), source: Source::Variable(name) };
                self.by_flag.insert(flag.to_owned(), setting);
            }
        }
    }

    /// Passes every value by itself through its flag, so that an error names where it stands.
    fn check(&self, role: &Command) -> Result<(), SettingsError> {
        let alone = role.clone().mut_args(|arg| arg.required(false));
        for (flag, setting) in &self.by_flag {
            let arguments = setting.values.iter().map(|value| {
                let mut argument = OsString::from(format!("--{flag}="));
                argument.push(value);
                argument
            });
            let parsed =
                alone.clone().try_get_matches_from(std::iter::once(OsString::from("goulette")).chain(arguments));
            if let Err(error) = parsed {
                let (from, key) = (setting.source.clone(), flag.replace('-', "_"));
                return Err(SettingsError::Value { from, key, reason: reason_of(&error) });
            }
        }
        Ok(())
    }

    /// The command line's grammar with these settings as defaults.
    pub(crate) fn as_defaults(&self, command: Command, role: &str) -> Command {
        command.mut_subcommand(role, |role| {
            self.by_flag.iter().fold(role, |role, (flag, setting)| {
                let Some(id) = find(&role, flag).map(|arg| arg.get_id().clone()) else { return role };
                let values = setting.values.iter().cloned().map(ClapStr::from).collect::<Vec<_>>();
                role.mut_arg(id, |arg| arg.required(false).default_values(values))
            })
        })
    }

    /// Every setting of a role with its values and where they come from, as parsed with [`as_defaults`](Self::as_defaults).
    pub(crate) fn explain(&self, role: &Command, matches: &ArgMatches) -> Vec<(String, String, Source)> {
        let explained = layered(role).map(|(flag, arg)| {
            let id = arg.get_id().as_str();
            let source = match (matches.value_source(id), self.by_flag.get(flag)) {
                (Some(ValueSource::CommandLine), _) => Source::Flag,
                (_, Some(setting)) => setting.source.clone(),
                _ => Source::Default,
            };
            let values = matches.get_raw(id).into_iter().flatten().map(OsStr::to_string_lossy);
            (flag.replace('-', "_"), values.collect::<Vec<_>>().join(","), source)
        });
        explained.collect()
    }
}

/// The flags of a role that other layers may set, with their names.
fn layered(role: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    role.get_arguments()
        .filter_map(|arg| arg.get_long().map(|flag| (flag, arg)))
        .filter(|(flag, _)| !ONLY_FLAGS.contains(flag))
}

fn find<'a>(role: &'a Command, flag: &str) -> Option<&'a Arg> {
    layered(role).find(|(name, _)| *name == flag).map(|(_, arg)| arg)
}

/// The role's own variable, and the one for all roles.
fn variable_names(role: &Command, flag: &str) -> [String; 2] {
    let flag = flag.replace('-', "_").to_uppercase();
    [format!("GOULETTE_{}_{flag}", role.get_name().to_uppercase()), format!("GOULETTE_{flag}")]
}

/// A list's parts; one value otherwise.
fn split(arg: &Arg, value: &OsStr) -> Vec<OsString> {
    match (arg.get_value_delimiter(), value.to_str()) {
        (Some(delimiter), Some(text)) => text.split(delimiter).map(OsString::from).collect(),
        _ => vec![value.to_owned()],
    }
}

/// What `-config` says, the last time it is given.
fn config_path(argv: &[OsString]) -> Option<OsString> {
    let flags = argv.iter().take_while(|argument| *argument != "--");
    flags.filter_map(|argument| argument.to_str()?.strip_prefix("--config=").map(OsString::from)).last()
}

/// Clap's message without what belongs to a command line.
fn reason_of(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use clap::CommandFactory;

    use super::*;
    use crate::{argv, cli::Cli};

    struct Case {
        file: &'static str,
        variables: &'static [(&'static str, &'static str)],
        line: &'static [&'static str],
    }

    /// Key, values and source of all settings, as one line each.
    fn explained(case: &Case) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g.toml");
        #[allow(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&path, case.file).unwrap();
        let mut line: Vec<OsString> = case.line.iter().map(OsString::from).collect();
        line.insert(2, format!("-config={}", path.display()).into());
        let mut command = Cli::command();
        command.build();
        let argv = argv::normalise(line, &command);
        let variables: HashMap<_, _> = case.variables.iter().copied().collect();
        let variable = |name: &str| variables.get(name).map(OsString::from);
        let shown = |text: String| text.replace(&path.display().to_string(), "FILE");
        let (role, settings) =
            Settings::gather(&argv, &command, &variable).map_err(|error| shown(error.to_string()))?.unwrap();
        let command = settings.as_defaults(Cli::command(), &role);
        let matches = command.clone().try_get_matches_from(argv).map_err(|error| shown(reason_of(&error)))?;
        let (_, matches) = matches.subcommand().unwrap();
        let all = settings.explain(command.find_subcommand(&role).unwrap(), matches);
        Ok(all.into_iter().map(|(key, values, source)| shown(format!("{key} = {values} ({source})"))).collect())
    }

    #[test]
    fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
        let all = explained(&Case {
            file: "[broker]\nid = \"file\"\naddress = \"127.0.0.1:1\"\nsentinel = [\"a:1\", \"b:2\"]\nrecord_bytes_max = 9",
            variables: &[("GOULETTE_BROKER_ADDRESS", "127.0.0.1:2"), ("GOULETTE_ID", "variable")],
            line: &["goulette", "broker", "-id", "flag"],
        })
        .unwrap();
        for expected in [
            "id = flag (flag)",
            "address = 127.0.0.1:2 (GOULETTE_BROKER_ADDRESS)",
            "sentinel = a:1,b:2 (FILE)",
            "record_bytes_max = 9 (FILE)",
            "sync = always (default)",
        ] {
            assert!(all.iter().any(|line| line == expected), "{expected}: {all:#?}");
        }
    }

    #[test]
    fn a_roles_own_variable_beats_the_one_for_all() {
        let case = Case {
            file: "",
            variables: &[("GOULETTE_LOG_LEVEL", "warn"), ("GOULETTE_SENTINEL_LOG_LEVEL", "debug")],
            line: &["goulette", "sentinel"],
        };
        let all = explained(&case).unwrap();
        assert!(all.contains(&"log_level = debug (GOULETTE_SENTINEL_LOG_LEVEL)".to_owned()), "{all:#?}");
        let all = explained(&Case { line: &["goulette", "broker"], ..case }).unwrap();
        assert!(all.contains(&"log_level = warn (GOULETTE_LOG_LEVEL)".to_owned()), "{all:#?}");
    }

    #[test]
    fn a_mistake_names_where_it_stands() {
        let wrong = |file, variables| explained(&Case { file, variables, line: &["goulette", "broker"] }).unwrap_err();
        let text = wrong("[broker]\nadress = 1", &[]);
        assert!(text.starts_with("FILE: [broker] has no key \"adress\": keys are id, address,"), "{text}");
        // Also in a section that this process does not read.
        let text = wrong("[sentinel]\nnumber = 1", &[]);
        assert!(text.starts_with("FILE: [sentinel] has no key \"number\""), "{text}");
        assert_eq!(wrong("[brokers]", &[]), "FILE: there is no [brokers]: sections are broker, sentinel, client");
        assert!(wrong("[broker]\nid = ", &[]).starts_with("FILE is not TOML: "));
        assert_eq!(
            wrong("[broker]\nid = { a = 1 }", &[]),
            "FILE: broker.id: is none of a text, a number, true or false, and a list of these"
        );
        let text = wrong("[broker]\nrecord_bytes_max = 0", &[]);
        assert!(text.starts_with("FILE: record_bytes_max: invalid value '0'"), "{text}");
        let text = wrong("", &[("GOULETTE_SYNC", "sometimes")]);
        assert!(text.starts_with("GOULETTE_SYNC: sync: invalid value 'sometimes'"), "{text}");
    }

    #[test]
    fn what_a_command_is_to_do_stands_in_no_file() {
        let case = Case { file: "[client]\nmode = \"producer\"", variables: &[], line: &["goulette", "client"] };
        assert!(explained(&case).unwrap_err().contains("has no key \"mode\""));
    }

    /// The example is the list of all keys: with its comment signs removed it has each of them, and as it stands it says
    /// what the defaults say.
    #[test]
    fn the_example_names_every_key_with_its_default() {
        const EXAMPLE: &str = include_str!("../../../../goulette.example.toml");
        let command = Cli::command();
        let uncommented: String = EXAMPLE
            .lines()
            .filter(|line| !line.starts_with("# "))
            .map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line)))
            .collect();
        let all: toml::Table = uncommented.parse().unwrap();
        let active: toml::Table = EXAMPLE.parse().unwrap();
        for role in ROLES.iter().filter_map(|name| command.find_subcommand(name)) {
            let section = all[role.get_name()].as_table().unwrap();
            let keys: Vec<_> = layered(role).map(|(flag, _)| flag.replace('-', "_")).collect();
            assert_eq!(section.keys().map(String::as_str).collect::<Vec<_>>(), sorted(&keys), "{}", role.get_name());
            for (flag, arg) in layered(role) {
                let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
                let stated = active[role.get_name()].get(flag.replace('-', "_"));
                let stated = stated.map(|value| file::texts(value).unwrap().join(","));
                let expected = (!defaults.is_empty()).then(|| defaults.join(","));
                assert_eq!(stated, expected, "{} {flag}", role.get_name());
            }
        }
    }

    fn sorted(keys: &[String]) -> Vec<&str> {
        let mut keys: Vec<_> = keys.iter().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }
}
