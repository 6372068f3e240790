//! Writes a bbolt file of every shape of bucket, for bbolt's own `check` to judge.

use goulette_bbolt::Writer;
use goulette_env::{Disk, OpenMode, RealDisk};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("give the file to write")?;
    let file = RealDisk.open(path.as_ref(), OpenMode::CreateNew)?;
    let mut writer = Writer::new(&*file);
    // Bucket name, keys, bytes of a key, bytes of a value.
    let shapes = [
        ("empty", 0, 1, 1),
        ("inline", 3, 8, 8),
        ("leaf", 20, 8, 100),
        ("two levels", 1_000, 17, 30),
        ("three levels", 2_000, 200, 300),
        ("long keys", 9, 30_000, 1),
        ("long values", 5, 8, 1_500_000),
    ];
    for (name, keys, key_bytes, value_bytes) in shapes {
        let mut bucket = writer.bucket(name.as_bytes());
        for n in 0..keys {
            bucket.put(format!("{n:0key_bytes$}").as_bytes(), &vec![n as u8; value_bytes])?;
        }
        bucket.finish()?;
    }
    writer.finish()?;
    Ok(())
}
