//! AV_PAIR lists: parsed within their bounds, and the same after encoding. The input is the list.

use ntlm_gateway::ntlm::{AvError, AvId, AvPair, AvPairs, FileTime, TargetInfoBuilder};

use super::parties;

/// Checks one list.
pub fn check(input: &[u8]) {
    let mut pairs = Vec::new();
    let mut end = 0;
    let mut items = AvPairs::new(input);
    for item in items.by_ref() {
        match item {
            Ok(pair) => {
                end += 4 + pair.value.len();
                assert_ne!(pair.id, AvId::Eol, "MsvAvEOL ends the list and is not a pair");
                assert_eq!(AvId::from_number(pair.id.number()), pair.id);
                check_value(&pair);
                pairs.push(pair);
            }
            Err(AvError::NoEol { at }) => {
                assert!(at == end && input.len() - at < 4, "the error is not at the end of the list")
            }
            Err(AvError::Overrun { at, length, left, .. }) => {
                assert_eq!(at, end);
                assert_eq!(left, input.len() - at - 4);
                assert!(length > left, "the {length} bytes are present");
            }
            Err(AvError::Length { .. }) => panic!("iterating does not check values"),
        }
    }
    assert!(items.next().is_none(), "the iterator continues after the end or an error");
    check_round_trip(&pairs, input, end);
}

fn check_value(pair: &AvPair<'_>) {
    let (units, odd) = pair.value.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    let expected = (pair.id.is_text() && odd.is_empty()).then(|| String::from_utf16_lossy(&units));
    assert_eq!(pair.text(), expected);
    assert_eq!(pair.word().is_ok(), pair.value.len() == 4);
    assert_eq!(pair.file_time().is_ok(), pair.value.len() == 8);
    if let Ok(time) = pair.file_time() {
        check_date(time);
    }
}

/// The printed date is the right number of days after 1601-01-01, counted differently from the code under test.
fn check_date(time: FileTime) {
    let text = time.to_string();
    let mut numbers = text.split(['-', ' ']).map_while(|part| part.parse::<i64>().ok());
    let (Some(year), Some(month), Some(day)) = (numbers.next(), numbers.next(), numbers.next()) else {
        panic!("not a date: {text}");
    };
    // Years start in March, so that the leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + day - 1;
    const DAYS_TO_1601: i64 = 584_694;
    assert_eq!(Ok(days - DAYS_TO_1601), i64::try_from(time.0 / 864_000_000_000), "{text}");
}

fn check_round_trip(pairs: &[AvPair<'_>], input: &[u8], end: usize) {
    let mut list = TargetInfoBuilder::new();
    for pair in pairs {
        list = list.bytes(pair.id, pair.value).expect("pairs from a list fit into a list");
    }
    let list = list.finish();
    let written: Vec<_> = AvPairs::new(&list).collect();
    assert!(written.iter().flatten().eq(pairs), "an encoded list decodes to different pairs");
    assert_eq!(list.strip_suffix(&[0; 4]), input.get(..end));
}

/// TargetInfo of servers, and lists with wrong lengths.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        [Some(parties::TIME), None].into_iter().filter_map(|time| parties::server(time).target_info).collect();
    seeds.extend([
        vec![0; 4],
        vec![6, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        [&[7, 0, 8, 0][..], &[0xff; 8], &[10, 0, 16, 0], &[7; 16], &[0; 8]].concat(),
        vec![2, 0, 12, 0, b'D', 0],
        vec![11, 0, 1],
        vec![10, 0, 3, 0, 1, 2, 3, 6, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0],
    ]);
    seeds
}
