//! What clients of old get wrong, byte by byte: no client library of today would send it.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::member::Member;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

/// A health check whose `:authority` is `authority`; the kind of the frame that answers it.
async fn ask(port: u16, authority: &str) -> u8 {
    let mut block = vec![0x83, 0x86];
    for (index, value) in [(0x44, "/grpc.health.v1.Health/Check"), (0x41, authority), (0x5f, "application/grpc")] {
        block.extend([index, value.len() as u8]);
        block.extend(value.as_bytes());
    }
    block.extend(b"\x40\x02te\x08trailers");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let settings = frame(4, 0, 0, b"");
    let (headers, data) = (frame(HEADERS, 0x4, 1, &block), frame(0, 0x1, 1, &[0; 5]));
    stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &headers, &data].concat()).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        if head[8] == 1 && [HEADERS, RST_STREAM].contains(&head[3]) {
            return head[3];
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_in_the_place_of_a_host_is_taken_for_the_host() {
    let (plan, _member) = Member::alone(&[]).await;
    let url = plan.config(0).advertise_client_urls[0].text.clone();
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    for (authority, answer) in
        [("localhost", HEADERS), ("http://localhost:1", HEADERS), ("https://localhost:1", HEADERS), ("a b", RST_STREAM)]
    {
        let told = timeout(Duration::from_secs(10), ask(port, authority)).await.unwrap();
        assert_eq!(told, answer, "{authority}");
    }
}
