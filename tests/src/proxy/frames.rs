//! Where requests begin and end on a connection to a Kafka broker, and which of them ends a transaction.

/// Ends a transaction; the key of Kafka's protocol.
const END_TXN: [u8; 2] = 26_i16.to_be_bytes();
/// A request's length and key.
const HEAD: usize = 6;

/// A part of what the client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// To be handed on as it is.
    Bytes(Vec<u8>),
    /// A whole request that ends a transaction.
    EndTxn(Vec<u8>),
}

/// Follows one connection from its first byte.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The beginning of a request whose key is not known yet, or a request to end a transaction.
    head: Vec<u8>,
    /// How many bytes of the request are to come.
    left: usize,
}

impl Frames {
    /// Takes the next bytes, and says what may go on.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let wanted = if self.left > 0 { self.left } else { HEAD - self.head.len() };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            bytes = later;
            if self.left > 0 {
                self.left -= now.len();
                if self.head.is_empty() {
                    pieces.push(Piece::Bytes(now.to_vec()));
                    continue;
                }
            }
            self.head.extend_from_slice(now);
            if self.head.len() == HEAD {
                let length = u32::from_be_bytes([self.head[0], self.head[1], self.head[2], self.head[3]]) as usize;
                self.left = (length + 4).saturating_sub(HEAD);
            }
            if self.head.len() < HEAD {
                continue;
            }
            if self.head[4..HEAD] != END_TXN {
                pieces.push(Piece::Bytes(std::mem::take(&mut self.head)));
            } else if self.left == 0 {
                pieces.push(Piece::EndTxn(std::mem::take(&mut self.head)));
            }
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 2).unwrap();
        [&length.to_be_bytes()[..], &[0, key], body].concat()
    }

    #[test]
    fn a_request_that_ends_a_transaction_is_found_however_the_bytes_are_cut() {
        let (produce, end) = (request(0, &[26; 40]), request(26, b"id and epoch"));
        let all = [produce.clone(), end.clone(), request(26, b""), produce.clone()].concat();
        for size in 1..all.len() {
            let mut frames = Frames::default();
            let (mut passed, mut ends) = (Vec::new(), Vec::new());
            for piece in all.chunks(size).flat_map(|chunk| frames.take(chunk)) {
                match piece {
                    Piece::Bytes(bytes) => passed.extend(bytes),
                    Piece::EndTxn(frame) => ends.push(frame),
                }
            }
            assert_eq!(passed, [produce.clone(), produce.clone()].concat(), "in pieces of {size}");
            assert_eq!(ends, [end.clone(), request(26, b"")], "in pieces of {size}");
        }
    }
}
