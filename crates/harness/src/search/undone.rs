//! Compressed streams that stand somewhere in data, undone as far as they go.

use std::io::Read;

use memchr::memmem;

/// The most bytes that one stream is taken to hold.
const MOST: usize = 16 << 20;
/// The most bytes of an LZ4 block: what a batch may hold.
const MOST_OF_BLOCK: usize = 512 << 10;
/// A block that holds less is none, or holds nothing that is looked for.
const LEAST: usize = 8;

/// Every stream that says what it is and begins in the data: its kind, where, and what is in it.
pub(super) fn streams(data: &[u8]) -> impl Iterator<Item = (&'static str, usize, Vec<u8>)> {
    let gzip = found(data, &[0x1f, 0x8b, 8]).map(|at| ("gzip", at, all(flate2::read::GzDecoder::new(&data[at..]))));
    // A window of 32 KiB, at each of the four levels (RFC 1950, section 2.2).
    let zlib = [0x01, 0x5e, 0x9c, 0xda].into_iter().flat_map(move |level| {
        found(data, &[0x78, level]).map(|at| ("zlib", at, all(flate2::read::ZlibDecoder::new(&data[at..]))))
    });
    let zstd = found(data, &[0x28, 0xb5, 0x2f, 0xfd]).map(|at| ("zstd", at, zstd(&data[at..])));
    gzip.chain(zlib).chain(zstd).filter(|(_, _, content)| content.len() >= LEAST)
}

fn found<'a>(data: &'a [u8], magic: &[u8]) -> impl Iterator<Item = usize> + use<'a> {
    memmem::Finder::new(magic).into_owned().find_iter(data).collect::<Vec<_>>().into_iter()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::stream::read::Decoder::with_buffer(data).map(|decoder| all(decoder.single_frame())).unwrap_or_default()
}

/// What comes out before the end, a fault, or too much.
fn all(mut stream: impl Read) -> Vec<u8> {
    let (mut content, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    while content.len() < MOST {
        match stream.read(&mut chunk) {
            Ok(length @ 1..) => content.extend_from_slice(&chunk[..length]),
            _ => break,
        }
    }
    content
}

/// LZ4 blocks have no mark. One is tried wherever the first sequence of one can be, and all of them are given together,
/// a zero between two: nearly everything else is no block after a sequence or two. A block without any match needs no
/// undoing.
pub(super) fn blocks(data: &[u8]) -> Vec<u8> {
    let (mut all, mut seen) = (Vec::new(), vec![false; data.len()]);
    for at in 0..data.len() {
        // What follows a sequence that was undone before is undone already.
        if !seen[at] && begins(data, at) {
            let content = block(data, at, &mut seen);
            if content.len() >= LEAST {
                all.extend_from_slice(&content);
                all.push(0);
            }
        }
    }
    all
}

/// Whether literals stand here, and a match behind them that is of these.
fn begins(data: &[u8], at: usize) -> bool {
    let token = data[at];
    if token < 0x10 {
        return false;
    }
    let (mut literals, mut at) = (usize::from(token >> 4), at + 1);
    if literals == 15 {
        while let Some(more) = data.get(at) {
            (literals, at) = (literals + usize::from(*more), at + 1);
            if *more != 255 {
                break;
            }
        }
    }
    let behind = at + literals;
    let Some(offset) = data.get(behind..behind + 2) else { return false };
    let offset = usize::from(offset[0]) | usize::from(offset[1]) << 8;
    offset != 0 && offset <= literals
}

fn block(data: &[u8], at: usize, seen: &mut [bool]) -> Vec<u8> {
    let (mut content, mut rest) = (Vec::new(), &data[at..]);
    while content.len() < MOST_OF_BLOCK && sequence(&mut rest, &mut content).is_some() {
        if let Some(seen) = seen.get_mut(data.len() - rest.len()) {
            *seen = true;
        }
    }
    content
}

/// Literals and a match (`lz4_Block_format.md`); `None` when there cannot be another one.
fn sequence(data: &mut &[u8], content: &mut Vec<u8>) -> Option<()> {
    let token = *data.split_off_first()?;
    let literals = length(token >> 4, data)?.min(data.len());
    content.extend_from_slice(data.split_off(..literals)?);
    let offset = usize::from(u16::from_le_bytes(data.split_off(..2)?.try_into().ok()?));
    let from = content.len().checked_sub(offset).filter(|_| offset != 0)?;
    let mut left = (length(token & 15, data)? + 4).min(MOST_OF_BLOCK);
    while left > 0 {
        // A match may reach into what it makes.
        let copied = left.min(content.len() - from);
        content.extend_from_within(from..from + copied);
        left -= copied;
    }
    Some(())
}

fn length(nibble: u8, data: &mut &[u8]) -> Option<usize> {
    let mut length = usize::from(nibble);
    while length >= 15 && nibble == 15 {
        let more = *data.split_off_first()?;
        length += usize::from(more);
        if more != 255 {
            break;
        }
    }
    Some(length)
}
