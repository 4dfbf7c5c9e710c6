//! From what came of an answer to what it says about an AUTHENTICATE_MESSAGE.

use crate::auth::{FinalAnswer, final_answer};
use crate::upstream::Answer;

/// The answer to the AUTHENTICATE_MESSAGE, as soon as enough of it has come.
pub fn so_far(heard: &[u8]) -> Option<Answer> {
    match final_answer(heard, false) {
        FinalAnswer::More => None,
        answer => Some(of(answer, Answer::Nothing)),
    }
}

/// What an answer says that the client cannot have: its status line may be in order where the rest is not.
pub fn unread(heard: &[u8]) -> Answer {
    of(final_answer(heard, true), Answer::Nothing)
}

/// What an answer says behind which the connection has ended.
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
