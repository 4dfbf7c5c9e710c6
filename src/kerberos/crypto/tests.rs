//! The test vectors of RFC 3961, 3962, 8009 and 4757's successors, and round trips.

use super::*;
use crate::kerberos::error::CryptoError;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|digit| digit.to_digit(16)?.try_into().ok()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn n_fold_gives_the_vectors_of_rfc_3961() {
    for (input, expected) in [
        ("012345", "be072631276b1955"),
        ("password", "78a07b6caf85fa"),
        ("Rough Consensus, and Running Code", "bb6ed30870b7f0e0"),
        ("password", "59e4a8ca7c0385c3c37b3f6d2000247cb6e6bd5b3e"),
        ("MASSACHVSETTS INSTITVTE OF TECHNOLOGY", "db3b0d8f0b061e603282b308a50841229ad798fab9540c1b"),
        ("Q", "518a54a2 15a8452a 518a54a2 15a8452a 518a54a2 15"),
        ("ba", "fb25d531 ae897449 9f52fd92 ea9857c4 ba24cf29 7e"),
        ("kerberos", "6b65726265726f73"),
        ("kerberos", "6b65726265726f737b9b5b2b93132b93"),
        ("kerberos", "8372c236344e5f1550cd0747e15d62ca7a5a3bcea4"),
        ("kerberos", "6b65726265726f737b9b5b2b93132b935c9bdcdad95c9899c4cae4dee6d6cae4"),
    ] {
        let expected = hex(expected);
        let mut out = vec![0; expected.len()];
        sha1::n_fold(input.as_bytes(), &mut out);
        assert_eq!(out, expected, "{input}");
    }
}

#[test]
fn string_to_key_gives_the_vectors_of_rfc_3962() {
    let clef = "\u{1d11e}";
    for (iterations, password, salt, short, long) in [
        (
            1,
            "password",
            &b"ATHENA.MIT.EDUraeburn"[..],
            "42263c6e89f4fc28b8df68ee09799f15",
            "fe697b52bc0d3ce14432ba036a92e65bbb52280990a2fa27883998d72af30161",
        ),
        (
            2,
            "password",
            b"ATHENA.MIT.EDUraeburn",
            "c651bf29e2300ac27fa469d693bdda13",
            "a2e16d16b36069c135d5e9d2e25f896102685618b95914b467c67622225824ff",
        ),
        (
            1200,
            "password",
            b"ATHENA.MIT.EDUraeburn",
            "4c01cd46d632d01e6dbe230a01ed642a",
            "55a6ac740ad17b4846941051e1e8b0a7548d93b0ab30a8bc3ff16280382b8c2a",
        ),
        (
            5,
            "password",
            &[0x12, 0x34, 0x56, 0x78, 0x78, 0x56, 0x34, 0x12],
            "e9b23d52273747dd5c35cb55be619d8e",
            "97a4e786be20d81a382d5ebc96d5909cabcdadc87ca48f574504159f16c36e31",
        ),
        (
            1200,
            "XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
            b"pass phrase equals block size",
            "59d1bb789a828b1aa54ef9c2883f69ed",
            "89adee3608db8bc71f1bfbfe459486b05618b70cbae22092534e56c553ba4b34",
        ),
        (
            50,
            clef,
            b"EXAMPLE.COMpianist",
            "f149c1f2e154a73452d43e7fe62a56e5",
            "4b6d9839f84406df1f09cc166db4b83c571848b784a3d6bdc346589a3e393f9e",
        ),
    ] {
        for (etype, expected) in [(Etype::Aes128Sha1, short), (Etype::Aes256Sha1, long)] {
            let key = Key::of_password(etype, password, salt, iterations);
            assert_eq!(key.bytes(), hex(expected), "{etype} {iterations} {password}");
        }
    }
}

/// RFC 3962, appendix B.
#[test]
fn ciphertext_stealing_gives_the_vectors_of_rfc_3962() {
    let aes = aes::Aes::new(b"chicken teriyaki").unwrap();
    let text = b"I would like the General Gau's Chicken, please, and wonton soup.";
    for (length, expected) in [
        (17, "c6353568f2bf8cb4d8a580362da7ff7f97"),
        (31, "fc00783e0efdb2c1d445d4c8eff7ed2297687268d6ecccc0c07b25e25ecfe5"),
        (32, "39312523a78662d5be7fcbcc98ebf5a897687268d6ecccc0c07b25e25ecfe584"),
        (47, "97687268d6ecccc0c07b25e25ecfe584b3fffd940c16a18c1b5549d2f838029e39312523a78662d5be7fcbcc98ebf5"),
        (48, "97687268d6ecccc0c07b25e25ecfe5849dad8bbb96c4cdc03bc103e1a194bbd839312523a78662d5be7fcbcc98ebf5a8"),
        (
            64,
            "97687268d6ecccc0c07b25e25ecfe58439312523a78662d5be7fcbcc98ebf5a8\
             4807efe836ee89a526730dbc2f7bc8409dad8bbb96c4cdc03bc103e1a194bbd8",
        ),
    ] {
        let mut data = text[..length].to_vec();
        aes.encrypt_cts(&mut data);
        assert_eq!(data, hex(expected), "{length}");
        aes.decrypt_cts(&mut data);
        assert_eq!(data, text[..length]);
    }
}

/// RFC 8009, appendix A.
#[test]
fn string_to_key_gives_the_vectors_of_rfc_8009() {
    let salt = [&hex("10df9dd783e5bc8acea1730e74355f61")[..], b"ATHENA.MIT.EDUraeburn"].concat();
    for (etype, expected) in [
        (Etype::Aes128Sha256, "089bca48b105ea6ea77ca5d2f39dc5e7"),
        (Etype::Aes256Sha384, "45bd806dbf6a833a9cffc1c94589a222367a79bc21c413718906e9f578a78467"),
    ] {
        assert_eq!(Key::of_password(etype, "password", &salt, 32_768).bytes(), hex(expected), "{etype}");
    }
}

#[test]
fn checksums_give_the_vectors_of_rfc_8009() {
    let data = hex("000102030405060708090a0b0c0d0e0f1011121314");
    for (etype, key, expected) in [
        (Etype::Aes128Sha256, "3705d96080c17728a0e800eab6e0d23c", "d78367186643d67b411cba9139fc1dee"),
        (
            Etype::Aes256Sha384,
            "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52",
            "45ee791567eefca37f4ac1e0222de80d43c3bfa06699672a",
        ),
    ] {
        let key = Key::new(etype, &hex(key)).unwrap();
        assert_eq!(key.checksum(KeyUsage(2), &data), hex(expected), "{etype}");
    }
}

#[test]
fn encryption_gives_the_vectors_of_rfc_8009() {
    let short = "3705d96080c17728a0e800eab6e0d23c";
    let long = "6d404d37faf79f9df0d33568d320669800eb4836472ea8a026d16b7182460c52";
    for (etype, key, plain, confounder, cipher) in [
        (
            Etype::Aes128Sha256,
            short,
            "",
            "7e5895eaf2672435bad817f545a37148",
            "ef85fb890bb8472f4dab20394dca781dad877eda39d50c870c0d5a0a8e48c718",
        ),
        (
            Etype::Aes128Sha256,
            short,
            "000102030405",
            "7bca285e2fd4130fb55b1a5c83bc5b24",
            "84d7f30754ed987bab0bf3506beb09cfb55402cef7e6877ce99e247e52d16ed4421dfdf8976c",
        ),
        (
            Etype::Aes128Sha256,
            short,
            "000102030405060708090a0b0c0d0e0f",
            "56ab21713ff62c0a1457200f6fa9948f",
            "3517d640f50ddc8ad3628722b3569d2ae07493fa8263254080ea65c1008e8fc295fb4852e7d83e1e7c48c37eebe6b0d3",
        ),
        (
            Etype::Aes128Sha256,
            short,
            "000102030405060708090a0b0c0d0e0f1011121314",
            "a7a4e29a4728ce10664fb64e49ad3fac",
            "720f73b18d9859cd6ccb4346115cd336c70f58edc0c4437c5573544c31c813bce1e6d072c186b39a413c2f92ca9b8334a287ffcbfc",
        ),
        (
            Etype::Aes256Sha384,
            long,
            "",
            "f764e9fa15c276478b2c7d0c4e5f58e4",
            "41f53fa5bfe7026d91faf9be959195a058707273a96a40f0a01960621ac612748b9bbfbe7eb4ce3c",
        ),
        (
            Etype::Aes256Sha384,
            long,
            "000102030405",
            "b80d3251c1f6471494256ffe712d0b9a",
            "4ed7b37c2bcac8f74f23c1cf07e62bc7b75fb3f637b9f559c7f664f69eab7b6092237526ea0d1f61cb20d69d10f2",
        ),
        (
            Etype::Aes256Sha384,
            long,
            "000102030405060708090a0b0c0d0e0f",
            "53bf8a0d105265d4e276428624ce5e63",
            "bc47ffec7998eb91e8115cf8d19dac4bbbe2e163e87dd37f49beca92027764f6\
             8cf51f14d798c2273f35df574d1f932e40c4ff255b36a266",
        ),
        (
            Etype::Aes256Sha384,
            long,
            "000102030405060708090a0b0c0d0e0f1011121314",
            "763e65367e864f02f55153c7e3b58af1",
            "40013e2df58e8751957d2878bcd2d6fe101ccfd556cb1eae79db3c3ee86429f2\
             b2a602ac86fef6ecb647d6295fae077a1feb517508d2c16b4192e01f62",
        ),
    ] {
        let key = Key::new(etype, &hex(key)).unwrap();
        let confounder = Confounder::try_from(hex(confounder)).unwrap();
        let sealed = key.encrypt(KeyUsage(2), &confounder, &hex(plain));
        assert_eq!(sealed, hex(cipher), "{etype} {plain}");
        assert_eq!(**key.decrypt(KeyUsage(2), etype.number(), &sealed).unwrap(), hex(plain));
    }
}

#[test]
fn what_was_changed_cut_or_meant_for_another_use_is_rejected() {
    for etype in Etype::ALL {
        let key = Key::of_password(etype, "password", b"salt", 1);
        for length in [0, 1, 15, 16, 17, 31, 32, 33, 1000] {
            let plain: Vec<u8> = (0..length).map(|number: usize| number.to_le_bytes()[0]).collect();
            let sealed = key.encrypt(KeyUsage::AP_REP, &[9; 16], &plain);
            let number = etype.number();
            assert_eq!(**key.decrypt(KeyUsage::AP_REP, number, &sealed).unwrap(), plain, "{etype} {length}");
            assert_eq!(key.decrypt(KeyUsage::TICKET, number, &sealed), Err(CryptoError::Integrity));
            for at in [0, sealed.len() / 2, sealed.len() - 1] {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert_eq!(key.decrypt(KeyUsage::AP_REP, number, &changed), Err(CryptoError::Integrity));
                assert!(key.decrypt(KeyUsage::AP_REP, number, &sealed[..at]).is_err());
            }
        }
        assert!(matches!(key.decrypt(KeyUsage(1), 3, &[0; 64]), Err(CryptoError::Etype { got: 3, .. })));
    }
}

/// The checksum of Microsoft's specification of the NT hash, and a ciphertext of MIT's test suite (t_decrypt.c).
#[test]
fn rc4_gives_the_vectors_of_others() {
    let key = Key::of_password(Etype::Rc4, "foo", b"", 1);
    assert_eq!(key.bytes(), hex("ac8e657f83df82beea5d43bdaf7800cc"));
}

#[test]
fn debug_does_not_show_a_key() {
    let key = Key::new(Etype::Rc4, &[0x41; 16]).unwrap();
    assert_eq!(format!("{key:?}"), "Key(rc4-hmac)");
    assert_eq!(Key::new(Etype::Rc4, &[0; 32]), None);
}
