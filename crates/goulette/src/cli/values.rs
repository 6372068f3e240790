//! Values of flags that are more than a number or a word, parsed once.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    str::FromStr,
    time::Duration,
};

/// The address of a peer, `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort(String);

impl HostPort {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or_default();
        let legal = !host.is_empty() && !text.contains(['/', '@']) && !text.contains(char::is_whitespace);
        match port.parse::<u16>() {
            Ok(port) if legal && port != 0 => Ok(Self(text.to_owned())),
            _ => Err(format!("{text:?} is not host:port, as in 127.0.0.1:50052")),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// An address to listen on: `host:port`, or `:port` for all interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddress {
    /// As written.
    text: String,
    /// Where to listen.
    pub(crate) socket: SocketAddr,
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let illegal = || format!("{text:?} is neither host:port, as in 127.0.0.1:50051, nor :port");
        let (host, port) = text.rsplit_once(':').ok_or_else(illegal)?;
        let port: u16 = port.parse().map_err(|_| illegal())?;
        let socket = match host {
            "" => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
            _ => text.to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(illegal)?,
        };
        Ok(Self { text: text.to_owned(), socket })
    }
}

impl ListenAddress {
    /// Whether peers on other machines can connect.
    pub(crate) fn is_public(&self) -> bool {
        !self.socket.ip().is_loopback()
    }

    /// The address that others can dial: what is listened on, or, for all interfaces, the one that this machine's
    /// packets leave from.
    pub(crate) fn dialable(&self) -> String {
        match self.socket.ip() {
            ip if ip.is_unspecified() => SocketAddr::new(outgoing_ip(), self.socket.port()).to_string(),
            _ if self.text.starts_with(':') => self.socket.to_string(),
            _ => self.text.clone(),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// The local address of the default route. Connecting a datagram socket asks the routing table and sends nothing.
fn outgoing_ip() -> IpAddr {
    // 192.0.2.0/24 is kept for documentation (RFC 5737), so it is routed like any foreign address.
    let route = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    route.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

/// Where the admin port listens: an address, or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdminAddress {
    Off,
    At(ListenAddress),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|error| format!("{error}, nor off")),
        }
    }
}

impl AdminAddress {
    /// What was given, or else the process's own port + 10 on this machine alone; a free one beside a free one. None if
    /// there is to be no admin port.
    ///
    /// # Errors
    /// There is no such port.
    pub(crate) fn or_beside(given: Option<&Self>, own: &ListenAddress) -> Result<Option<SocketAddr>, String> {
        match given {
            Some(Self::Off) => Ok(None),
            Some(Self::At(address)) => Ok(Some(address.socket)),
            None => {
                let port = match own.socket.port() {
                    0 => 0,
                    port => port.checked_add(10).ok_or_else(|| {
                        format!("there is no port {port} + 10 for the admin port: give -admin-address (off: none)")
                    })?,
                };
                Ok(Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)))
            }
        }
    }
}

/// `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for KeyValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
            _ => Err(format!("{text:?} is not key=value, as in fragment_ms=3600000")),
        }
    }
}

/// Bytes that a rack's name may have.
const RACK_BYTES_MAX: usize = 100;

/// The name of a rack: printable, and not too long for a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RackName(String);

impl FromStr for RackName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if (1..=RACK_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} is not 1 to {RACK_BYTES_MAX} bytes without control characters"))
        }
    }
}

impl fmt::Display for RackName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// When a written record counts as stored: `always`, `interval:MS` or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncChoice {
    Always,
    Interval(Duration),
    Never,
}

impl FromStr for SyncChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let interval = || text.strip_prefix("interval:")?.parse::<u64>().ok().filter(|ms| (1..=60_000).contains(ms));
        match text {
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => interval().map(|ms| Self::Interval(Duration::from_millis(ms))).ok_or_else(|| {
                format!("{text:?} is none of always, never and interval:MS with 1 to 60000 milliseconds")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_listens_everywhere_and_advertises_a_real_address() {
        let address: ListenAddress = ":50051".parse().unwrap();
        assert!(address.socket.ip().is_unspecified() && address.is_public());
        let dialable: SocketAddr = address.dialable().parse().unwrap();
        assert!(!dialable.ip().is_unspecified() && dialable.port() == 50051);
    }

    #[test]
    fn a_named_address_is_advertised_as_written() {
        let address: ListenAddress = "localhost:50051".parse().unwrap();
        assert!(!address.is_public());
        assert_eq!(address.dialable(), "localhost:50051");
        assert_eq!("[::1]:1".parse::<ListenAddress>().unwrap().dialable(), "[::1]:1");
    }

    #[test]
    fn the_admin_port_is_the_own_port_and_ten_on_this_machine_alone() {
        let beside = |own: &str, given: Option<&str>| {
            let given = given.map(|text| text.parse::<AdminAddress>().unwrap());
            AdminAddress::or_beside(given.as_ref(), &own.parse().unwrap())
        };
        let at = |text: &str| Ok(Some(text.parse().unwrap()));
        assert_eq!(beside(":50051", None), at("127.0.0.1:50061"));
        assert_eq!(beside("127.0.0.1:0", None), at("127.0.0.1:0"));
        assert_eq!(beside(":50051", Some(":9100")), at("0.0.0.0:9100"));
        assert_eq!(beside(":65530", Some("off")), Ok(None));
        assert!(beside(":65530", None).unwrap_err().contains("-admin-address"));
        assert!("on".parse::<AdminAddress>().is_err());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "a b:1"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text:?}");
            assert!(text.parse::<HostPort>().is_err(), "{text:?}");
        }
        for text in [":50052", "http://x:1", "127.0.0.1:0"] {
            assert!(text.parse::<HostPort>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn racks_have_printable_names() {
        assert_eq!("room 1".parse::<RackName>().unwrap().to_string(), "room 1");
        for text in ["", "a\nb", &"x".repeat(101)] {
            assert!(text.parse::<RackName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sync_policies_are_read() {
        assert_eq!("interval:20".parse(), Ok(SyncChoice::Interval(Duration::from_millis(20))));
        assert_eq!("always".parse(), Ok(SyncChoice::Always));
        for text in ["sometimes", "interval:0", "interval:", "interval:99999999"] {
            assert!(text.parse::<SyncChoice>().is_err(), "{text:?}");
        }
    }
}
