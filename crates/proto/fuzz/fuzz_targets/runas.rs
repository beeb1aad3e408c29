//! A request to the helper that runs programs as other users, as whoever reaches its socket can write it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardline_proto::runas::{CREDENTIALS, CREDENTIALS_LIMIT, Request, is_file_name};

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::parse(data) {
        assert!(request.program.starts_with('/'));
        assert!(request.credentials.len() <= CREDENTIALS);
        assert!(request.credentials.iter().map(|file| file.length as usize).sum::<usize>() <= CREDENTIALS_LIMIT);
        assert!(request.credentials.iter().all(|file| is_file_name(&file.name) && !file.name.contains('/')));
    }
});
