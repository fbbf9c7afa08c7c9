//! Texts that are longer than a model reads: as windows that overlap, or cut.

use std::ops::Range;

use tokenizers::Encoding;

use crate::error::{Error, Result};

/// How much a model reads at once, and how the rest is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Longest window in tokens, with those that the tokenizer puts around a text.
    pub window: usize,
    /// How many tokens of the text a window shares with the one before it.
    pub stride: usize,
    /// Whether a longer text is cut; else it is read in as many windows as it takes.
    pub truncate: bool,
    /// Which text of a pair the windows slide over.
    pub slide: Slide,
}

/// A text of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slide {
    /// The first.
    First,
    /// The second; the only one, where there is no pair.
    Second,
}

impl Lengths {
    /// Of texts that are cut: the longer one of a pair first.
    pub fn cut(window: usize) -> Lengths {
        Lengths { window, stride: 0, truncate: true, slide: Slide::Second }
    }
}

/// Which end of a longer text goes first: the side on which it is cut, and on which its windows are not full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Side {
    /// The beginning.
    Left,
    /// The end.
    #[default]
    Right,
}

/// The characters of a text that are in every window of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fixed {
    /// How many of the first.
    pub first: usize,
    /// How many of the last.
    pub last: usize,
    /// How many there are.
    pub length: usize,
}

/// A text, or a pair of texts, in tokens, and the windows in which a model reads it.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub(super) encoding: Encoding,
    sequences: Vec<Option<usize>>,
    slides: Range<usize>,
    windows: Vec<Window>,
}

/// A window: the tokens that a model reads at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The indices of its tokens in the whole text, those around the text too.
    pub tokens: Vec<usize>,
    /// Which tokens of the text it slides over are in it.
    slid: Range<usize>,
}

impl Encoded {
    /// Of a text whose first and last characters are in every window, as many as `fixed` says. Fails where the window leaves
    /// no room beside what every window holds.
    pub(super) fn new(encoding: Encoding, lengths: &Lengths, fixed: Fixed, side: Side) -> Result<Encoded> {
        let sequences = encoding.get_sequence_ids();
        let mut ranges = [0, 1].map(|sequence| range(&sequences, sequence));
        let total = encoding.get_ids().len();
        let [_, second] = &ranges;
        let of_second = lengths.slide == Slide::Second && !second.is_empty();
        let slides = if of_second { second.clone() } else { after(&encoding, &ranges[0], fixed) };
        if fixed.last > 0 {
            let beside = total - slides.len();
            if beside >= lengths.window {
                return Err(Error::bad_input(format!(
                    "the first text and what is around it have {beside} tokens, and a window has {}",
                    lengths.window
                )));
            }
            ranges = [0..0, slides.clone()];
        }
        let windows = if total <= lengths.window {
            vec![Window { tokens: (0..total).collect(), slid: slides.clone() }]
        } else if lengths.truncate {
            vec![cut(&ranges, total, lengths.window, &slides, side)]
        } else {
            slide(&slides, total, lengths, side)?
        };
        Ok(Encoded { encoding, sequences, slides, windows })
    }

    /// The windows, in the text's order; one at least.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// How many tokens there are, those that the tokenizer puts around the text too.
    pub fn len(&self) -> usize {
        self.encoding.get_ids().len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether some tokens are in no window.
    pub fn is_cut(&self) -> bool {
        matches!(self.windows(), [only] if only.tokens.len() < self.len())
    }

    /// The token's number in the vocabulary.
    pub fn id(&self, token: usize) -> Option<u32> {
        self.encoding.get_ids().get(token).copied()
    }

    /// The token's position in its text, in characters.
    pub fn offsets(&self, token: usize) -> (usize, usize) {
        self.encoding.get_offsets().get(token).copied().unwrap_or_default()
    }

    /// Whether the tokenizer put it around the text.
    pub fn is_special(&self, token: usize) -> bool {
        self.encoding.get_special_tokens_mask().get(token).is_none_or(|special| *special == 1)
    }

    /// The text of a pair that it belongs to, 0 or 1; none for those around them.
    pub fn sequence(&self, token: usize) -> Option<usize> {
        self.sequences.get(token).copied().flatten()
    }

    /// The number of its word, where the tokenizer knows words.
    pub fn word(&self, token: usize) -> Option<u32> {
        self.encoding.get_word_ids().get(token).copied().flatten()
    }

    /// The window with most context around the token: that in which the nearer of its cut ends is farthest. None where
    /// the token was cut off.
    pub fn window_of(&self, token: usize) -> Option<usize> {
        if !self.slides.contains(&token) {
            let by = if token < self.slides.start { 0 } else { self.windows.len().checked_sub(1)? };
            return self.windows.get(by)?.tokens.binary_search(&token).ok().map(|_| by);
        }
        let first = self.windows.partition_point(|window| window.slid.end <= token);
        let seeing = self.windows.iter().enumerate().skip(first).take_while(|(_, w)| w.slid.start <= token);
        let seeing: Vec<(usize, &Window)> = seeing.collect();
        // Of equals the last is taken, so the first comes last.
        seeing.into_iter().rev().max_by_key(|(_, window)| self.seen(window, token)).map(|(number, _)| number)
    }

    /// How far the nearer cut end of the window is; the text's own ends are none.
    fn seen(&self, Window { slid, .. }: &Window, token: usize) -> usize {
        let before = if slid.start == self.slides.start { usize::MAX } else { token - slid.start };
        let after = if slid.end == self.slides.end { usize::MAX } else { slid.end - 1 - token };
        before.min(after)
    }
}

/// The positions of a text's tokens, which are side by side.
fn range(sequences: &[Option<usize>], sequence: usize) -> Range<usize> {
    let is = |found: &Option<usize>| *found == Some(sequence);
    match (sequences.iter().position(is), sequences.iter().rposition(is)) {
        (Some(first), Some(last)) => first..last + 1,
        _ => 0..0,
    }
}

/// The tokens of a text between those characters of it that are in every window.
fn after(encoding: &Encoding, text: &Range<usize>, fixed: Fixed) -> Range<usize> {
    let offsets = encoding.get_offsets().get(text.clone()).unwrap_or_default();
    let before = offsets.iter().take_while(|(_, end)| fixed.first > 0 && *end <= fixed.first).count();
    let last = fixed.length.saturating_sub(fixed.last);
    let after = offsets.iter().rev().take_while(|(_, end)| fixed.last > 0 && *end > last).count();
    let start = text.start + before;
    start..text.end.saturating_sub(after).max(start)
}

/// The one window that is left of a text that is cut: of two texts the longer is cut first.
fn cut(ranges: &[Range<usize>; 2], total: usize, window: usize, slides: &Range<usize>, side: Side) -> Window {
    let [first, second] = ranges;
    let room = window.saturating_sub(total - first.len() - second.len());
    let (short, long) = (first.len().min(second.len()), first.len().max(second.len()));
    let kept_short = short.min(room / 2);
    let kept_long = long.min(room - kept_short);
    let (kept_first, kept_second) =
        if first.len() <= second.len() { (kept_short, kept_long) } else { (kept_long, kept_short) };
    let kept = |range: &Range<usize>, tokens: usize| match side {
        Side::Left => range.end - tokens..range.end,
        Side::Right => range.start..range.start + tokens,
    };
    let (left_first, left_second) = (kept(first, kept_first), kept(second, kept_second));
    let gone = |token: &usize| {
        let beyond = |range: &Range<usize>, left: &Range<usize>| range.contains(token) && !left.contains(token);
        beyond(first, &left_first) || beyond(second, &left_second)
    };
    let left = if slides.end == second.end { left_second.clone() } else { left_first.clone() };
    let start = slides.start.max(left.start);
    Window { tokens: (0..total).filter(|token| !gone(token)).collect(), slid: start..left.end.max(start) }
}

/// Windows over the tokens `slides`, each with everything else in it, in the text's order. The last to be laid is the one
/// that may be shorter in what is new: at the text's end, or at its beginning where texts are cut there.
fn slide(slides: &Range<usize>, total: usize, lengths: &Lengths, side: Side) -> Result<Vec<Window>> {
    let Lengths { window, stride, .. } = *lengths;
    let beside = total - slides.len();
    let room = window.saturating_sub(beside);
    if room <= stride {
        let what = format!(
            "a window of {window} tokens has room for {room} of the text beside {beside} others, which is no more \
             than the {stride} that windows share"
        );
        return Err(Error::bad_input(what).hint("give a shorter question or first text, or a smaller --stride"));
    }
    let mut laid = Vec::new();
    let mut from = 0;
    loop {
        let to = slides.len().min(from + room);
        laid.push(match side {
            Side::Left => slides.end - to..slides.end - from,
            Side::Right => slides.start + from..slides.start + to,
        });
        if to == slides.len() {
            break;
        }
        from += room - stride;
    }
    if side == Side::Left {
        laid.reverse();
    }
    let window = |slid: Range<usize>| {
        let tokens = (0..slides.start).chain(slid.clone()).chain(slides.end..total).collect();
        Window { tokens, slid }
    };
    Ok(laid.into_iter().map(window).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows_on(content: usize, window: usize, stride: usize, side: Side) -> Result<Vec<Window>> {
        // One token before the text and one after it.
        let lengths = Lengths { window, stride, truncate: false, slide: Slide::Second };
        slide(&(1..1 + content), content + 2, &lengths, side)
    }

    fn windows(content: usize, window: usize, stride: usize) -> Result<Vec<Window>> {
        windows_on(content, window, stride, Side::Right)
    }

    fn encoded(content: usize, window: usize, stride: usize, side: Side) -> Encoded {
        Encoded {
            encoding: Encoding::default(),
            sequences: Vec::new(),
            slides: 1..1 + content,
            windows: windows_on(content, window, stride, side).unwrap(),
        }
    }

    #[test]
    fn windows_overlap_by_the_stride_and_hold_the_tokens_around_the_text() {
        let found: Vec<_> = windows(10, 6, 1).unwrap().into_iter().map(|w| w.tokens).collect();
        assert_eq!(found, [vec![0, 1, 2, 3, 4, 11], vec![0, 4, 5, 6, 7, 11], vec![0, 7, 8, 9, 10, 11]]);
        let found: Vec<_> = windows(5, 6, 3).unwrap().into_iter().map(|w| w.slid).collect();
        assert_eq!(found, [1..5, 2..6]);
    }

    /// As `tokenizers` lays them with the direction `Left`, in the other order.
    #[test]
    fn windows_are_full_at_the_end_where_texts_are_cut_at_their_beginning() {
        let slid = |content, window, stride| -> Vec<_> {
            windows_on(content, window, stride, Side::Left).unwrap().into_iter().map(|w| w.slid).collect()
        };
        assert_eq!(slid(10, 6, 1), [1..5, 4..8, 7..11]);
        assert_eq!(slid(9, 6, 1), [1..4, 3..7, 6..10]);
        assert_eq!((slid(4, 6, 1).len(), slid(4, 6, 1)[0].clone()), (1, 1..5));
    }

    #[test]
    fn every_token_is_in_a_window_that_is_no_longer_than_allowed() {
        for (content, window, stride) in
            (1..40).flat_map(|c| (3..12).flat_map(move |w| (0..w - 2).map(move |s| (c, w, s))))
        {
            for side in [Side::Left, Side::Right] {
                let encoded = encoded(content, window, stride, side);
                for token in 0..content + 2 {
                    let by = &encoded.windows[encoded.window_of(token).unwrap()];
                    assert!(by.tokens.contains(&token), "{token} of {content} in {window} by {stride}");
                }
                assert!(encoded.windows.iter().all(|w| w.tokens.len() <= window));
                let ends = encoded.windows.iter().map(|w| w.slid.end);
                assert_eq!(ends.filter(|end| *end == content + 1).count(), 1, "{content} in {window} by {stride}");
                let starts = encoded.windows.iter().map(|w| w.slid.start);
                assert_eq!(starts.filter(|start| *start == 1).count(), 1, "{content} in {window} by {stride}");
            }
        }
    }

    #[test]
    fn a_stride_without_room_for_more_is_refused() {
        let error = windows(10, 6, 4).unwrap_err();
        let expected = "a window of 6 tokens has room for 4 of the text beside 2 others, which is no more than the 4 \
                        that windows share";
        assert_eq!(error.message(), expected);
        assert!(windows(10, 1, 0).is_err());
    }

    #[test]
    fn a_token_is_read_in_the_window_with_most_context() {
        let encoded = encoded(10, 6, 2, Side::Right);
        let slid: Vec<_> = encoded.windows.iter().map(|window| window.slid.clone()).collect();
        assert_eq!(slid, [1..5, 3..7, 5..9, 7..11]);
        let by: Vec<_> = (0..12).map(|token| encoded.window_of(token).unwrap()).collect();
        assert_eq!(by, [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3]);
    }

    #[test]
    fn the_longer_of_two_texts_is_cut_first() {
        let kept = |first: usize, second: usize, window: usize| {
            let ranges = [1..1 + first, 2 + first..2 + first + second];
            let [left, right] = [Side::Left, Side::Right].map(|side| {
                let window = cut(&ranges, first + second + 3, window, &ranges[1], side);
                ranges.clone().map(|range| window.tokens.iter().filter(|token| range.contains(token)).count())
            });
            assert_eq!(left, right);
            right
        };
        assert_eq!(kept(2, 9, 11), [2, 6]);
        assert_eq!(kept(9, 2, 11), [6, 2]);
        assert_eq!(kept(9, 9, 12), [4, 5]);
        assert_eq!(kept(9, 8, 12), [5, 4]);
        assert_eq!(kept(9, 0, 7), [4, 0]);
    }

    #[test]
    fn the_removed_tokens_are_at_the_side_of_the_cut() {
        let cut = |side| cut(&[1..6, 7..11], 12, 8, &(7..11), side);
        assert_eq!(cut(Side::Right), Window { tokens: vec![0, 1, 2, 3, 6, 7, 8, 11], slid: 7..9 });
        assert_eq!(cut(Side::Left), Window { tokens: vec![0, 3, 4, 5, 6, 9, 10, 11], slid: 9..11 });
    }
}
