//! What the bytes of an answer say about the AUTHENTICATE_MESSAGE before it.

use crate::auth::{FinalAnswer, final_answer};
use crate::upstream::Answer;

/// The answer, as soon as enough of it has been received; `None` until then.
pub fn so_far(heard: &[u8]) -> Option<Answer> {
    match final_answer(heard, false) {
        FinalAnswer::More => None,
        answer => Some(of(answer, Answer::Nothing)),
    }
}

/// The answer, if no more of it is read. Its status line counts even if the rest is incomplete or invalid.
pub fn unread(heard: &[u8]) -> Answer {
    of(final_answer(heard, true), Answer::Nothing)
}

/// The answer, if the connection has ended after these bytes.
pub fn cut_off(heard: &[u8]) -> Answer {
    of(final_answer(heard, true), Answer::Closed)
}

fn of(answer: FinalAnswer, cut_off: Answer) -> Answer {
    match answer {
        FinalAnswer::Status(status) => Answer::Status(status),
        FinalAnswer::Refused => Answer::Refused,
        FinalAnswer::NotHttp => Answer::Nothing,
        FinalAnswer::More => cut_off,
    }
}
