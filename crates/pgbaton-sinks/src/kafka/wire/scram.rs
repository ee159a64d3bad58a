//! SCRAM (RFC 5802) as Kafka's brokers ask for it: the client's side, without channel binding.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};

/// A broker's number of rounds is its choice; beyond this it would only hold us up.
const MOST_ITERATIONS: u32 = 1_000_000;

/// The hash that the mechanism is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha256 => Sha256::digest(bytes).to_vec(),
            Hash::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }

    fn mac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha256 => mac::<Hmac<Sha256>>(key, bytes),
            Hash::Sha512 => mac::<Hmac<Sha512>>(key, bytes),
        }
    }

    fn salted(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        match self {
            Hash::Sha256 => salted::<Hmac<Sha256>>(password, salt, iterations),
            Hash::Sha512 => salted::<Hmac<Sha512>>(password, salt, iterations),
        }
    }
}

fn keyed<M: Mac + KeyInit>(key: &[u8]) -> M {
    <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of every length")
}

fn mac<M: Mac + KeyInit>(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    keyed::<M>(key).chain_update(bytes).finalize().into_bytes().to_vec()
}

/// PBKDF2 with as many bytes as the hash has.
fn salted<M: Mac + KeyInit + Clone>(password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
    let keyed = keyed::<M>(password);
    let mut last = keyed.clone().chain_update(salt).chain_update([0, 0, 0, 1]).finalize().into_bytes();
    let mut sum = last.to_vec();
    for _ in 1..iterations {
        last = keyed.clone().chain_update(&last).finalize().into_bytes();
        sum.iter_mut().zip(&last).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

/// An exchange: `first`, then `answer` to the server's first message, then `is_server` of its last.
pub(super) struct Scram<'a> {
    hash: Hash,
    password: &'a str,
    first_bare: String,
    nonce: String,
    server_signature: Vec<u8>,
}

impl<'a> Scram<'a> {
    /// `nonce` is random, and printable without commas.
    pub fn new(hash: Hash, user: &str, password: &'a str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Scram { hash, password, first_bare: format!("n={user},r={nonce}"), nonce, server_signature: Vec::new() }
    }

    pub fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// The proof for the server's first message; `None` if that is none.
    pub fn answer(&mut self, server_first: &str) -> Option<String> {
        let field = |name: &str| server_first.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let nonce = field("r").filter(|nonce| nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len())?;
        let salt = STANDARD.decode(field("s")?).ok()?;
        let iterations = field("i")?.parse().ok().filter(|count| (1..=MOST_ITERATIONS).contains(count))?;

        // `biws` is `n,,` again, in base64.
        let last_bare = format!("c=biws,r={nonce}");
        let signed = format!("{},{server_first},{last_bare}", self.first_bare);
        let salted = self.hash.salted(self.password.as_bytes(), &salt, iterations);
        let client_key = self.hash.mac(&salted, b"Client Key");
        let mut proof = self.hash.mac(&self.hash.digest(&client_key), signed.as_bytes());
        proof.iter_mut().zip(&client_key).for_each(|(proof, key)| *proof ^= key);
        self.server_signature = self.hash.mac(&self.hash.mac(&salted, b"Server Key"), signed.as_bytes());
        Some(format!("{last_bare},p={}", STANDARD.encode(proof)))
    }

    /// Whether the server's last message shows that it knows the password, too.
    pub fn is_server(&self, server_last: &str) -> bool {
        let signature = server_last.split(',').find_map(|field| field.strip_prefix("v="));
        signature.is_some_and(|signature| STANDARD.decode(signature).is_ok_and(|found| found == self.server_signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677.
    #[test]
    fn the_example_of_the_standard_comes_out() {
        let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        let mut scram = Scram::new(Hash::Sha256, "user", "pencil", nonce);
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let server_first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                      p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(scram.answer(server_first).as_deref(), Some(answer));
        assert!(scram.is_server("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!scram.is_server("v=AAAA"));
        assert!(!scram.is_server("e=other-error"));
    }

    #[test]
    fn a_server_that_did_not_see_our_nonce_gets_no_proof() {
        let mut scram = Scram::new(Hash::Sha512, "a=b,c", "pencil", "abc".to_owned());
        assert_eq!(scram.first(), "n,,n=a=3Db=2Cc,r=abc");
        for first in ["", "r=abc,s=AAAA,i=4096", "r=xyzw,s=AAAA,i=4096", "r=abcd,s=AAAA,i=0", "r=abcd,s=AAAA,i=9999999"]
        {
            assert_eq!(scram.answer(first), None, "{first}");
        }
    }
}
