//! Network namespaces on one bridge, between which ways can be cut.

use std::process::Command;

/// How many networks there may be at a time.
const NUMBERS: u32 = 250;

/// The namespaces; removed when dropped.
pub(crate) struct Network {
    name: String,
    prefix: String,
    spaces: usize,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Network {
    /// So many namespaces, each with an address that this machine reaches.
    pub(crate) fn make(spaces: usize) -> Result<Self, String> {
        // One that nobody has: what another run has made is not ours to remove either.
        let first = std::process::id() % NUMBERS;
        let made = |number: &u32| ip(&format!("link add glt{number} type bridge"));
        let mut refusal = String::new();
        let free = (0..NUMBERS).map(|step| (first + step) % NUMBERS).find(|number| match made(number) {
            Ok(()) => true,
            Err(reason) => {
                refusal = reason;
                false
            }
        });
        let number = free.ok_or(refusal)?;
        let network = Self { name: format!("glt{number}"), prefix: format!("10.233.{number}."), spaces };
        let Self { name, prefix, .. } = &network;
        ip(&format!("addr add {prefix}254/24 dev {name}"))?;
        ip(&format!("link set {name} up"))?;
        for member in 0..spaces {
            let space = network.space(member);
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {name}v{member} type veth peer name eth0 netns {space}"))?;
            ip(&format!("link set {name}v{member} master {name} up"))?;
            ip(&format!("-n {space} addr add {}/24 dev eth0", network.address(member)))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(network)
    }

    pub(crate) fn space(&self, member: usize) -> String {
        format!("{}n{member}", self.name)
    }

    pub(crate) fn address(&self, member: usize) -> String {
        format!("{}{}", self.prefix, member + 1)
    }

    /// What `from` sends to `to` is lost from now on; the other way is open.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        let (space, address) = (self.space(from), self.address(to));
        ip(&format!("-n {space} route add blackhole {address}/32")).expect("a way can be cut");
    }

    /// All ways are open again.
    pub(crate) fn heal(&self) {
        for from in 0..self.spaces {
            for to in (0..self.spaces).filter(|to| *to != from) {
                let (space, address) = (self.space(from), self.address(to));
                // Most were never cut.
                let _ = ip(&format!("-n {space} route del blackhole {address}/32"));
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for member in 0..self.spaces {
            // First its link: what goes with the namespace goes in its own time, and the next network has the same names.
            let _ = ip(&format!("link del {}v{member}", self.name));
            let _ = ip(&format!("netns del {}", self.space(member)));
        }
        let _ = ip(&format!("link del {}", self.name));
    }
}
