//! Base64, with the vector instructions of the processor where there are any.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
type Engine = base64::engine::Simd;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
type Engine = base64::engine::GeneralPurpose;

static STANDARD: LazyLock<Engine> = LazyLock::new(|| engine(GeneralPurposeConfig::new()));

/// Padding is often missing, and some encoders set unused bits in the last character.
static LENIENT: LazyLock<Engine> = LazyLock::new(|| {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    engine(config.with_decode_allow_trailing_bits(true))
});

fn engine(config: GeneralPurposeConfig) -> Engine {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return Engine::standard(config);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Engine::new(&base64::alphabet::STANDARD, config);
}

/// Encodes directly into `out`, so that no second copy of an AUTHENTICATE_MESSAGE remains in memory.
pub(super) fn append(out: &mut Vec<u8>, message: &[u8]) {
    let start = out.len();
    out.resize(start + message.len().div_ceil(3) * 4, 0);
    let room = out.get_mut(start..).unwrap_or_default();
    let written = STANDARD.encode_slice(message, room);
    debug_assert!(written.is_ok(), "the buffer has the length of the encoded message");
    out.truncate(start + written.unwrap_or(0));
}

/// Decodes text with padding or without; `None` if it is not base64.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    // Not `Engine::decode`, which has the allocator clear the buffer: for one of a few hundred bytes that takes longer.
    let mut bytes = Vec::with_capacity(base64::decoded_len_estimate(text.len()));
    LENIENT.decode_vec(text, &mut bytes).ok()?;
    Some(bytes)
}
