//! Tells the service manager how far the process is (`sd_notify`): a datagram to the socket that `NOTIFY_SOCKET` names.
//!
//! Outside of a unit of `Type=notify` there is no such socket, and nothing is said. See sd_notify(3).

use std::{env, ffi::OsStr, io, os::unix::net::UnixDatagram};

use goulette_logging::warn;

/// The process serves; `line` says so to people.
pub(crate) fn ready(line: &str) {
    tell(&format!("READY=1\nSTATUS={line}"));
}

/// The process ends in order; what it does until then is not a fault.
pub(crate) fn stopping() {
    tell("STOPPING=1");
}

/// What the process waits for, in one line for people: `systemctl status` shows it.
pub(crate) fn status(line: &str) {
    tell(&format!("STATUS={line}"));
}

fn tell(state: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        warn!("the service manager could not be told {state}: {error}");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    // The manager reads at once; whoever does not must not hold us up.
    sender.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    {
        use std::os::{
            linux::net::SocketAddrExt,
            unix::{ffi::OsStrExt, net::SocketAddr},
        };
        if let Some(name) = socket.as_bytes().strip_prefix(b"@") {
            return sender.send_to_addr(state.as_bytes(), &SocketAddr::from_abstract_name(name)?).map(drop);
        }
    }
    sender.send_to(state.as_bytes(), socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_arrives_at_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        assert!(send(folder.path().join("nobody").as_os_str(), "READY=1").is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_name_without_a_file_begins_with_an_at_sign() {
        use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
        let name = format!("goulette-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STOPPING=1");
    }
}
