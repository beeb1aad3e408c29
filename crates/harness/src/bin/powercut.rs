//! The process behind [`wardline_harness::PowerCut`]: serves the disk at the folder it is given.

fn main() {
    let folder = std::env::args_os().nth(1).expect("usage: powercut FOLDER, orders on standard input");
    wardline_harness::powercut::serve(folder.as_ref());
}
