//! Tokens of the crate's own making. The tests against Python are in `tests/core/test_kernel.py`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aes::cipher::{Array, BlockModeEncrypt, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::optouts::OptOuts;
use crate::{Builder, Kernel, Rules, unless_it_panics};

pub fn seal_gcm(secret: &[u8], iv: &[u8; 12], plaintext: &[u8]) -> Vec<u8> {
    let algorithm = match secret.len() {
        16 => &aead::AES_128_GCM,
        _ => &aead::AES_256_GCM,
    };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, secret).unwrap());
    let mut sealed = plaintext.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(*iv), Aad::empty(), &mut sealed).unwrap();
    sealed
}

pub fn cbc_blocks(secret: &[u8], iv: &[u8; 16], padded: &[u8]) -> Vec<u8> {
    let mut blocks = padded.to_vec();
    let chunks = Array::slice_as_chunks_mut(&mut blocks).0;
    match secret.len() {
        16 => cbc::Encryptor::<Aes128>::new_from_slices(secret, iv).unwrap().encrypt_blocks(chunks),
        24 => cbc::Encryptor::<Aes192>::new_from_slices(secret, iv).unwrap().encrypt_blocks(chunks),
        _ => cbc::Encryptor::<Aes256>::new_from_slices(secret, iv).unwrap().encrypt_blocks(chunks),
    }
    blocks
}

/// `iv | ciphertext`
pub fn seal_cbc(secret: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let iv = [5; 16];
    let padding = 16 - plaintext.len() % 16;
    let padded = [plaintext, &vec![u8::try_from(padding).unwrap(); padding]].concat();
    [iv.to_vec(), cbc_blocks(secret, &iv, &padded)].concat()
}

pub const NOW_MS: i64 = 1_800_000_000_000;
const MASTER: [u8; 32] = [1; 32];
const SITE: [u8; 16] = [2; 16];
const UID: [u8; 33] = [0xFB; 33];

pub fn kernel() -> Kernel {
    let mut builder = Builder::new(Rules {
        scope_bit: 0,
        checks_domains: true,
        max_lifetime_ms: Some(1_000),
        clock_skew_ms: 100,
        last_expiry_ms: i128::from(NOW_MS) + 10_000,
    });
    builder.add_key(1, &MASTER).unwrap();
    builder.add_key(2, &SITE).unwrap();
    builder.add_key(1 << 32 | 1, &SITE).unwrap();
    builder.add_site(10, br#"["example.com"]"#);
    builder.build()
}

#[derive(Clone, Copy)]
struct Content {
    version: u8,
    expires_ms: i64,
    generated_ms: i64,
    privacy_bits: u32,
}

const GOOD: Content = Content { version: 128, expires_ms: NOW_MS + 500, generated_ms: NOW_MS, privacy_bits: 1 };

pub fn good_token(privacy_bits: u32) -> String {
    text(Content { privacy_bits, ..GOOD })
}

fn text(content: Content) -> String {
    let raw = if content.version == 2 { v2(content) } else { v3(content) };
    let mut out = vec![0; crate::base64::encoded_length(raw.len())];
    crate::base64::encode(&raw, &mut out);
    String::from_utf8(out).unwrap()
}

fn v3(content: Content) -> Vec<u8> {
    let mut site = [&10_u32.to_be_bytes()[..], &[0; 12], &content.privacy_bits.to_be_bytes()].concat();
    site.extend([&7_i64.to_be_bytes()[..], &[0; 8], &UID].concat());
    let mut master = [content.expires_ms.to_be_bytes(), content.generated_ms.to_be_bytes()].concat();
    master.extend([&[0; 13][..], &2_u32.to_be_bytes(), &[4; 12], &seal_gcm(&SITE, &[4; 12], &site)].concat());
    [&[3, content.version, 0, 0, 0, 1][..], &[5; 12], &seal_gcm(&MASTER, &[5; 12], &master)].concat()
}

fn v2(content: Content) -> Vec<u8> {
    let mut site = [10_u32.to_be_bytes(), 4_u32.to_be_bytes(), *b"uid=", content.privacy_bits.to_be_bytes()].concat();
    site.extend(7_i64.to_be_bytes());
    let master = [&content.expires_ms.to_be_bytes()[..], &2_u32.to_be_bytes(), &seal_cbc(&SITE, &site)].concat();
    [&[2, 0, 0, 0, 1][..], &seal_cbc(&MASTER, &master)].concat()
}

fn answer(kernel: &Kernel, body: &str, now_ms: i64) -> Option<String> {
    kernel.answer(body.as_bytes(), now_ms, |success| {
        success.encode(|length, write| {
            let mut out = vec![0; length];
            write(&mut out)?;
            String::from_utf8(out).ok()
        })
    })
}

fn is_answered(content: Content, domain: &str) -> bool {
    answer(&kernel(), &format!(r#"{{"token":"{}","domain":{domain}}}"#, text(content)), NOW_MS).is_some()
}

#[test]
fn good_tokens_of_every_version() {
    let uid = "+/v7".repeat(11);
    for (version, uid) in [(128, uid.as_str()), (112, uid.as_str()), (2, "uid=")] {
        let body = format!(r#"{{ "domain" : null , "token" : "{}" }}"#, text(Content { version, ..GOOD }));
        let expected = format!(r#"{{"status":"SUCCESS","uid":"{uid}","established":7}}"#);
        assert_eq!(answer(&kernel(), &body, NOW_MS), Some(expected));
        assert_eq!(answer(&kernel(), &body, NOW_MS + 10_000), None);
    }
}

#[test]
fn keys_that_have_opened_the_outer_layer() {
    let used = |content: Content| {
        let kernel = kernel();
        assert_eq!(kernel.used_master_keys().count(), 0);
        answer(&kernel, &format!(r#"{{"token":"{}"}}"#, text(content)), NOW_MS);
        kernel.used_master_keys().collect::<Vec<_>>()
    };
    for version in [128, 112] {
        assert_eq!(used(Content { version, ..GOOD }), [1]);
        assert_eq!(used(Content { version, expires_ms: 0, ..GOOD }), [1]);
    }
    assert_eq!(used(Content { version: 2, ..GOOD }), [0; 0]);
}

#[test]
fn every_rule() {
    for version in [128, 112, 2] {
        let good = Content { version, ..GOOD };
        assert!(is_answered(Content { expires_ms: NOW_MS, ..good }, "null"));
        assert!(!is_answered(Content { expires_ms: NOW_MS - 1, ..good }, "null"));
        assert!(is_answered(Content { expires_ms: NOW_MS + 1_000, ..good }, "null"));
        assert!(!is_answered(Content { expires_ms: NOW_MS + 1_001, ..good }, "null"));
        assert!(!is_answered(Content { expires_ms: i64::MAX, generated_ms: i64::MIN, ..good }, "null"));
        assert!(is_answered(Content { generated_ms: NOW_MS + 100, ..good }, "null"));
        assert_eq!(is_answered(Content { generated_ms: NOW_MS + 101, ..good }, "null"), version == 2);
        assert!(!is_answered(Content { privacy_bits: super::token::OPTED_OUT, ..good }, "null"));
        let client_side = Content { privacy_bits: super::token::CLIENT_SIDE_GENERATED, ..good };
        assert!(is_answered(client_side, r#""example.com""#));
        for domain in ["null", r#""""#, r#""example.co""#, r#""Example.com""#, r#""www.example.com""#] {
            assert!(!is_answered(client_side, domain), "{domain}");
        }
        assert!(is_answered(good, r#""of another""#));
    }
}

#[test]
fn no_truncation_and_no_changed_bit_panics() {
    for version in [128, 112, 2] {
        let body =
            format!(r#"{{"token":"{}","domain":"example.com"}}"#, text(Content { version, ..GOOD })).into_bytes();
        let kernel = kernel();
        for length in 0..body.len() {
            assert!(kernel.answer(&body[..length], NOW_MS, |_| Some(())).is_none());
        }
        for bit in 0..body.len() * 8 {
            let mut bad = body.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let _ = kernel.answer(&bad, NOW_MS, |_| Some(()));
        }
    }
}

#[test]
fn a_batch() {
    let (good, bad) = (text(GOOD), text(Content { privacy_bits: 4, ..GOOD }));
    let verdict = answer(&kernel(), &format!(r#"{{"token":"{good}"}}"#), NOW_MS).unwrap();
    let body = format!(r#" {{"requests" : [{{"token":"{good}"}}, {{"token":"{bad}"}} ,{{"token":"{good}"}}] }} "#);
    let answered = kernel().answer_batch(body.as_bytes(), NOW_MS).unwrap();
    assert_eq!(String::from_utf8(answered.json).unwrap(), format!(r#"{{"results":[{verdict},,{verdict}]}}"#));
    assert_eq!(answered.answered, 2);
    let left: Vec<_> = answered.left.iter().map(|left| (left.gap, &body[left.request.clone()])).collect();
    assert_eq!(left, [(12 + verdict.len() + 1, format!(r#"{{"token":"{bad}"}}"#).as_str())]);
}

#[test]
fn bodies_that_are_no_plain_batch() {
    let one = format!(r#"{{"token":"{}"}}"#, text(GOOD));
    let is_read = |body: String| kernel().answer_batch(body.as_bytes(), NOW_MS).is_some();
    let of = |count: usize| format!(r#"{{"requests":[{}]}}"#, vec![one.as_str(); count].join(","));
    assert!(is_read(of(1)) && is_read(of(1_000)));
    assert!(!is_read(of(0)) && !is_read(of(1_001)));
    assert!(is_read(format!(r#"{{"requests":[{one},{{"token":"{}"}}]}}"#, "A".repeat(32 * 1024 - 12))));
    for body in [
        one.clone(),
        of(2) + "x",
        of(2).replace("}]", "},]"),
        of(2).replace("]}", "],\"x\":1}"),
        of(2).replace("requests", "request"),
        format!(r#"{{"requests":[{one},{{"token":"\u0061"}}]}}"#),
        format!(r#"{{"requests":[{one},{{"token":"a{}"}}]}}"#, "\u{1}"),
        format!(r#"{{"requests":[{one},{{"token":1}}]}}"#),
        format!(r#"{{"requests":[{one},{{"token":"{}"}}]}}"#, "A".repeat(32 * 1024 - 11)),
        format!("{}{}", of(1), " ".repeat(512 * 1024)),
    ] {
        assert!(!is_read(body));
    }
}

#[test]
fn a_panic_is_no_answer() {
    assert_eq!(unless_it_panics(|| Some(1)), Some(1));
    assert_eq!(unless_it_panics(|| -> Option<u8> { panic!("on purpose") }), None);
}

/// A kernel with a filter of one block, of generation 1; and the words that control it.
fn kernel_with_filter() -> (Kernel, Arc<OptOuts>, Arc<[AtomicI64; 4]>) {
    struct Control(Arc<[AtomicI64; 4]>);
    impl AsRef<[AtomicI64]> for Control {
        fn as_ref(&self) -> &[AtomicI64] {
            &*self.0
        }
    }
    let control = Arc::new([0, 1, 0, NOW_MS].map(AtomicI64::new));
    let optouts = Arc::new(OptOuts::new(Box::new(Control(Arc::clone(&control))), true).unwrap());
    optouts.map(Box::new([0; 8].map(AtomicI64::new)), [0; 16], 1).unwrap();
    let kernel = kernel();
    kernel.set_optouts(Arc::clone(&optouts)).unwrap();
    assert!(kernel.set_optouts(Arc::clone(&optouts)).is_none());
    (kernel, optouts, control)
}

#[test]
fn an_id_that_may_be_opted_out_is_not_answered() {
    let body = |version| format!(r#"{{"token":"{}"}}"#, text(Content { version, ..GOOD }));
    let is_answered = |kernel: &Kernel, version| answer(kernel, &body(version), NOW_MS).is_some();
    for version in [128, 112] {
        let (kernel, optouts, control) = kernel_with_filter();
        assert!(is_answered(&kernel, version));
        optouts.add(&[&[&[1], &UID[..]].concat()]).unwrap(); // of the other programme
        assert!(is_answered(&kernel, version));
        control[1].store(2, Ordering::Relaxed);
        assert!(!is_answered(&kernel, version));
        control[1].store(1, Ordering::Relaxed);
        control[3].store(NOW_MS - 1, Ordering::Relaxed);
        assert!(!is_answered(&kernel, version));
        control[3].store(NOW_MS, Ordering::Relaxed);
        assert!(is_answered(&kernel, version));
        optouts.add(&[&[&[0], &UID[..]].concat()]).unwrap();
        assert!(!is_answered(&kernel, version));
        let batch = format!(r#"{{"requests":[{}]}}"#, body(version));
        let answered = kernel.answer_batch(batch.as_bytes(), NOW_MS).unwrap();
        assert_eq!((answered.answered, answered.left.len()), (0, 1));
    }
    let (kernel, ..) = kernel_with_filter();
    assert!(!is_answered(&kernel, 2)); // its id is not base64 of 32 or 33 bytes
}
