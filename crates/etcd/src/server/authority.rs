//! Clients of old that send a whole URL where HTTP/2 has room for a host: etcdctl 3.4 and whatever was built with its
//! library. RFC 9113 forbids it and our HTTP library refuses it, while a real etcd does not look; here the scheme is taken
//! out before anybody does (docs/adr/0052).
//!
//! [`Authority`] reads the frames of a connection as they arrive, until the first request shows that this client knows
//! better: from then on, which is at once for nearly all, bytes pass untouched and unread.

/// What a client sends before its first frame.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
/// Frames are no longer unless a server allows it, which ours does not. A longer one is somebody else's to refuse.
const FRAME_MAX: usize = 16 << 10;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The place of `:authority` in HPACK's table.
const AUTHORITY_INDEX: usize = 1;
const SCHEMES: [&[u8]; 2] = [b"http://", b"https://"];

/// See the module.
pub(super) struct Authority {
    state: State,
    /// Bytes of a frame's head, or of a frame that is looked at, which is not here as a whole.
    held: Vec<u8>,
}

enum State {
    /// Before the first frame.
    Preface,
    /// A frame begins.
    Head,
    /// This many bytes of a frame that is none of ours.
    Through(usize),
    /// In a frame of headers, so long with its head.
    Headers(usize),
    /// Nothing is looked at any more.
    Passing,
}

impl Authority {
    pub(super) fn new() -> Self {
        Self { state: State::Preface, held: Vec::new() }
    }

    /// Whether bytes pass as they are, none of them held back.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self.state, State::Passing)
    }

    /// Takes what arrived, and appends to `out` what is to be read instead.
    pub(super) fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            match self.state {
                State::Passing => return out.extend_from_slice(bytes),
                State::Through(left) => {
                    let now = left.min(bytes.len());
                    out.extend_from_slice(take(&mut bytes, now));
                    self.state = if now == left { State::Head } else { State::Through(left - now) };
                }
                State::Preface => {
                    if self.hold(&mut bytes, PREFACE.len()) || !PREFACE.starts_with(&self.held) {
                        self.state = if self.held == PREFACE { State::Head } else { State::Passing };
                        out.append(&mut self.held);
                    }
                }
                State::Head => {
                    if self.hold(&mut bytes, FRAME_HEAD) {
                        let length = usize::from(self.held[0]) << 16
                            | usize::from(self.held[1]) << 8
                            | usize::from(self.held[2]);
                        let whole = self.held[4] & END_HEADERS != 0;
                        if self.held[3] == HEADERS && whole && length <= FRAME_MAX {
                            self.state = State::Headers(FRAME_HEAD + length);
                        } else {
                            out.append(&mut self.held);
                            self.state = if length == 0 { State::Head } else { State::Through(length) };
                        }
                    }
                }
                State::Headers(length) => {
                    if self.hold(&mut bytes, length) {
                        match without_scheme(&self.held) {
                            Rewrite::Untouched => self.state = State::Passing,
                            Rewrite::Unknown => self.state = State::Head,
                            Rewrite::Frame(frame) => {
                                self.held = frame;
                                self.state = State::Head;
                            }
                        }
                        out.append(&mut self.held);
                    }
                }
            }
        }
    }

    /// The end of what arrives: what was held back goes out as it is.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.state = State::Passing;
        out.append(&mut self.held);
    }

    /// Holds up to `wanted` bytes; true when they are all here.
    fn hold(&mut self, bytes: &mut &[u8], wanted: usize) -> bool {
        let missing = wanted - self.held.len();
        let now = missing.min(bytes.len());
        self.held.extend_from_slice(take(bytes, now));
        now == missing
    }
}

fn take<'b>(bytes: &mut &'b [u8], count: usize) -> &'b [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

/// What becomes of a frame of headers.
enum Rewrite {
    /// Its authority is a host, as it should be: this client does not send URLs.
    Untouched,
    /// It has no authority in letters, or cannot be read. The next frame may tell.
    Unknown,
    /// The frame without the scheme.
    Frame(Vec<u8>),
}

fn without_scheme(frame: &[u8]) -> Rewrite {
    let Some((from, to)) = authority(frame) else { return Rewrite::Unknown };
    let Some(text) = string(&frame[from..to]) else { return Rewrite::Unknown };
    let Some(host) = SCHEMES.iter().find_map(|scheme| text.strip_prefix(*scheme)) else { return Rewrite::Untouched };
    // Shorter than what was there, in letters instead of bits: seven bits say the length of a sane host.
    let Some(length) = u8::try_from(host.len()).ok().filter(|&length| length < 127) else { return Rewrite::Unknown };
    let mut rewritten = frame[..from].to_vec();
    rewritten.push(length);
    rewritten.extend_from_slice(host);
    rewritten.extend_from_slice(&frame[to..]);
    let payload = rewritten.len() - FRAME_HEAD;
    if payload > FRAME_MAX {
        return Rewrite::Unknown;
    }
    rewritten[..3].copy_from_slice(&(payload as u32).to_be_bytes()[1..]);
    Rewrite::Frame(rewritten)
}

/// Where in the frame the authority's value stands, its length included.
fn authority(frame: &[u8]) -> Option<(usize, usize)> {
    let flags = frame[4];
    let mut at = FRAME_HEAD;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(at)?))?;
        at += 1;
    }
    if flags & PRIORITY != 0 {
        at += 5;
    }
    let block = frame.get(..end)?;
    while at < end {
        let first = *block.get(at)?;
        let (prefix, is_literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = number(block, &mut at, prefix)?;
        if !is_literal {
            continue;
        }
        if index == 0 {
            skip_string(block, &mut at)?;
        }
        let from = at;
        skip_string(block, &mut at)?;
        if index == AUTHORITY_INDEX {
            return Some((from, at));
        }
    }
    None
}

fn skip_string(block: &[u8], at: &mut usize) -> Option<()> {
    let length = number(block, at, 7)?;
    *at = at.checked_add(length).filter(|&end| end <= block.len())?;
    Some(())
}

/// A number whose first byte has `prefix` bits of it (RFC 7541, 5.1).
fn number(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let limit = (1 << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & limit;
    *at += 1;
    if value < limit {
        return Some(value);
    }
    // Three more bytes say more than a frame holds.
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A string's letters, `None` if it holds what no URL holds.
fn string(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut at = 0;
    number(bytes, &mut at, 7)?;
    if bytes[0] & 0x80 == 0 { Some(bytes[at..].to_vec()) } else { letters(&bytes[at..]) }
}

/// Huffman's codes of the letters that URLs have (RFC 7541, appendix B): bits, the first code, its letters in order.
const CODES: [(u32, u32, &[u8]); 5] = [
    (5, 0x0, b"012aceiost"),
    (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
    (7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, 0xf8, b"&*,;XZ"),
    (13, 0x1ffb, b"[]~"),
];

fn letters(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut letters = Vec::new();
    let (mut code, mut bits) = (0_u32, 0_u32);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |shift| byte >> shift & 1)) {
        code = code << 1 | u32::from(bit);
        bits += 1;
        let row = CODES.iter().find(|(length, ..)| *length == bits);
        if let Some((_, first, row)) = row
            && let Some(letter) = code.checked_sub(*first).and_then(|place| row.get(place as usize))
        {
            letters.push(*letter);
            (code, bits) = (0, 0);
        } else if bits > 13 {
            return None;
        }
    }
    // What is left is padding: ones, fewer than eight.
    (bits < 8 && code == (1 << bits) - 1).then_some(letters)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of headers around a block.
    fn frame(block: &[u8]) -> Vec<u8> {
        let mut frame = (block.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([HEADERS, END_HEADERS, 0, 0, 0, 1]);
        frame.extend(block);
        frame
    }

    /// `:method POST`, `:scheme http`, `:authority` in letters, then a header of its own name.
    fn request(authority: &[u8]) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, 0x41, authority.len() as u8];
        block.extend(authority);
        block.extend(b"\x40\x02te\x08trailers");
        frame(&block)
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        let settings = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
        let data = b"\x00\x00\x03\x00\x00\x00\x00\x00\x01abc".to_vec();
        let mut bytes = PREFACE.to_vec();
        for frame in [vec![settings], frames.to_vec(), vec![data]].concat() {
            bytes.extend(frame);
        }
        bytes
    }

    /// What comes out of `bytes`, handed over in pieces of `step`.
    fn through(bytes: &[u8], step: usize) -> (Vec<u8>, Authority) {
        let (mut authority, mut out) = (Authority::new(), Vec::new());
        for piece in bytes.chunks(step) {
            authority.feed(piece, &mut out);
        }
        (out, authority)
    }

    #[test]
    fn the_scheme_goes_and_all_else_stays() {
        let sent = connection(&[request(b"http://127.0.0.1:2379"), request(b"https://[::1]:2379")]);
        let wanted = connection(&[request(b"127.0.0.1:2379"), request(b"[::1]:2379")]);
        for step in [1, 2, 7, 24, 33, 1000] {
            assert_eq!(through(&sent, step).0, wanted, "pieces of {step}");
        }
    }

    #[test]
    fn a_client_that_sends_a_host_is_left_alone_from_then_on() {
        let sent = connection(&[request(b"localhost:2379"), request(b"http://later")]);
        let (out, authority) = through(&sent, 11);
        assert_eq!(out, sent);
        assert!(authority.is_passing());
        let (out, authority) = through(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 3);
        assert_eq!(out, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(authority.is_passing());
    }

    #[test]
    fn letters_come_in_bits_too() {
        // As Go's library writes them.
        for (coded, text) in [
            ("9d29aee30c044eae05c0b86e09975f", "http://127.0.0.1:2379"),
            ("9d29ad171863ff772e07ff9702fbefbf", "https://[::1]:19999"),
            ("9d29aee30c693c8559d5cbe474d74162f2afeae7b26b8fbf", "http://Node-7.example_x%Z.org:99"),
        ] {
            let bytes: Vec<u8> =
                (0..coded.len()).step_by(2).map(|at| u8::from_str_radix(&coded[at..at + 2], 16).unwrap()).collect();
            assert_eq!(letters(&bytes).as_deref(), Some(text.as_bytes()));
            let mut block = vec![0x41, 0x80 | bytes.len() as u8];
            block.extend(&bytes);
            let Rewrite::Frame(rewritten) = without_scheme(&frame(&block)) else { panic!("{text} stays") };
            assert!(rewritten.ends_with(text.split_once("//").unwrap().1.as_bytes()));
        }
        // Nine ones are no padding, and a zero is none at all.
        assert_eq!(letters(b"\x06"), None);
        assert_eq!(letters(b"\x07\xff\xff"), None);
    }

    #[test]
    fn padding_and_priorities_are_stepped_over() {
        let block = b"\x41\x08http://a";
        let mut padded = vec![2, 0, 0, 0, 0, 16];
        padded.extend(block);
        padded.extend([0, 0]);
        let mut sent = frame(&padded);
        sent[4] |= PADDED | PRIORITY;
        let Rewrite::Frame(rewritten) = without_scheme(&sent) else { panic!("the scheme stays") };
        assert_eq!(rewritten[2], sent[2] - 7);
        assert_eq!(rewritten[FRAME_HEAD..], *b"\x02\x00\x00\x00\x00\x10\x41\x01a\x00\x00");
    }

    proptest! {
        #[test]
        fn no_bytes_are_lost_or_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), step in 1..50_usize) {
            for head in [&[][..], &PREFACE[..]] {
                let sent = [head, &bytes].concat();
                let (mut out, mut authority) = through(&sent, step);
                authority.finish(&mut out);
                prop_assert!(out == sent || out.len() < sent.len());
            }
            let _ = without_scheme(&frame(&bytes));
            let _ = letters(&bytes);
        }
    }
}
