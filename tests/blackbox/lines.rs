//! Text to send: deterministic, with the lines that break naive programs among them.

use goulette_types::SplitMix64;

/// How many lines a long round trip sends.
pub(crate) fn count() -> usize {
    std::env::var("GOULETTE_TEST_LINES").ok().and_then(|lines| lines.parse().ok()).unwrap_or(60_000)
}

/// `lines` lines, each closed by `\n`: numbered words, and among them empty lines, lines of up to 500 KiB, lines that
/// are not UTF-8, lines with `\r` and NUL.
pub(crate) fn text(lines: usize, seed: u64) -> Vec<u8> {
    let mut random = SplitMix64::new(seed);
    let mut text = Vec::with_capacity(lines * 48);
    let long_every = (lines / 20).max(1);
    for line in 0..lines {
        match random.next() % 50 {
            0 => {}
            1 => text.extend((0..40).map(|_| 0x80 | random.next() as u8)),
            2 => text.extend_from_slice(b"carriage\r return and \0 zero"),
            _ => {
                text.extend_from_slice(line.to_string().as_bytes());
                for _ in 0..random.next() % 8 {
                    text.extend_from_slice(WORDS[(random.next() % WORDS.len() as u64) as usize].as_bytes());
                }
            }
        }
        if line % long_every == long_every / 2 {
            let length = 1 + random.next() % (500 * 1024);
            text.extend((0..length).map(|_| b'a' + (random.next() % 26) as u8));
        }
        if line == lines / 3 {
            text.extend(std::iter::repeat_n(b'x', 500 * 1024));
        }
        text.push(b'\n');
    }
    text
}

/// The position behind the first `part`-th (0.0 to 1.0) of the text, at a line's end.
pub(crate) fn cut(text: &[u8], part: f64) -> usize {
    let from = (text.len() as f64 * part) as usize;
    text[from..].iter().position(|&b| b == b'\n').map_or(text.len(), |at| from + at + 1)
}

/// Fails with the first difference, not with megabytes of text.
pub(crate) fn assert_same(sent: &[u8], came: &[u8]) {
    if sent == came {
        return;
    }
    let mut sent_lines = sent.split(|&b| b == b'\n');
    let mut came_lines = came.split(|&b| b == b'\n');
    for number in 0.. {
        let (sent_line, came_line) = (sent_lines.next(), came_lines.next());
        if sent_line != came_line {
            let show = |line: Option<&[u8]>| {
                line.map(|line| String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned())
            };
            panic!("line {number} differs: sent {:?}, came {:?}", show(sent_line), show(came_line));
        }
    }
}

const WORDS: [&str; 12] = [
    " boat",
    " narrow",
    " 河",
    " channel",
    " throat",
    " message",
    " queue",
    " ünïcode",
    " fragment",
    " sentinel",
    "\t",
    " ",
];
