//! Reads the memory of a process for a test that may not do so itself, which runs this by `sudo`.

use wardline_harness::search::memory::Image;

fn main() {
    let pid = std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("usage: memory PID");
    let image = Image::read(pid).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    image.write(&mut std::io::stdout().lock()).expect("somebody reads it");
}
