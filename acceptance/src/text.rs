//! Makes what a CLI prints comparable: it wraps lines and draws boxes around errors.

/// The text on one line: no colours, no box characters, single spaces.
pub fn flat(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                // An escape sequence ends with its first letter.
                let _ = chars.by_ref().find(char::is_ascii_alphabetic);
            }
            '│' | '╷' | '╵' => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::flat;

    #[test]
    fn boxes_colours_and_wrapping_go() {
        let boxed = "\u{1b}[31m╷\u{1b}[0m\n│ \u{1b}[1mError: Unable to create\n│ the instance\n╵\n";
        assert_eq!(flat(boxed), "Error: Unable to create the instance");
    }
}
