//! Flags of `goulette etcd`: etcd's own, read by the crate that knows them.

use clap::Args;

#[derive(Args, Debug)]
#[command(disable_version_flag = true, disable_help_flag = true)]
pub(crate) struct EtcdFlags {
    /// etcd's flags, such as --name, --data-dir, --listen-client-urls; --help lists them
    #[arg(value_name = "FLAGS", allow_hyphen_values = true, trailing_var_arg = true, num_args = 0..)]
    pub(crate) args: Vec<String>,
}
