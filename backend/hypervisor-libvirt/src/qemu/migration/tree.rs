//! Two texts of XML that say the same.

use std::fmt::Write;

use roxmltree::{Document, Node};

/// Elements within elements that are read; those of libvirt's domains have ten.
const DEPTH_MOST: usize = 64;

/// What a text of XML says, whatever the order of attributes and of elements, and the spaces around
/// texts. Equal for two texts exactly when they say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree(String);

impl Tree {
    /// Reads a text; none when it is not XML, or begins with anything but its first element, which
    /// could make another parser read it otherwise.
    pub(super) fn read(text: &str) -> Option<Self> {
        if has_declarations(text) {
            return None;
        }
        let document = Document::parse(text).ok()?;
        Some(Self(canonical(document.root_element(), DEPTH_MOST)?))
    }

    /// Reads one child of a text's first element.
    pub(super) fn read_child(text: &str, name: &str) -> Option<Self> {
        let document = Document::parse(text).ok()?;
        let child = document.root_element().children().find(|each| each.has_tag_name(name))?;
        Some(Self(canonical(child, DEPTH_MOST)?))
    }
}

/// Whether a text has more than elements and texts: declarations, instructions, comments. Nothing
/// that libvirt writes has.
pub(super) fn has_declarations(text: &str) -> bool {
    !text.starts_with('<') || text.contains("<!") || text.contains("<?")
}

/// None for what is nested deeper than that: whoever made it may want the stack to end.
fn canonical(node: Node<'_, '_>, depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    if let Some(text) = node.text().filter(|_| node.is_text()) {
        return Some(format!("{:?}", text.trim()));
    }
    let name = node.tag_name();
    let mut attributes: Vec<_> = node
        .attributes()
        .map(|each| format!(" {:?}:{:?}={:?}", each.namespace(), each.name(), each.value()))
        .collect();
    attributes.sort_unstable();
    let said = |each: &Node<'_, '_>| {
        each.is_element() || each.text().is_some_and(|text| !text.trim().is_empty())
    };
    let children = node.children().filter(said).map(|each| canonical(each, depth));
    let mut children = children.collect::<Option<Vec<_>>>()?;
    children.sort_unstable();
    let mut whole = format!("{:?}:{:?}", name.namespace(), name.name());
    // Infallible: a String takes all that is written to it.
    let _ = write!(whole, "[{}]({})", attributes.concat(), children.join(","));
    Some(whole)
}

/// The text without one child of its first element.
pub(super) fn without(text: &str, name: &str) -> Option<String> {
    let document = Document::parse(text).ok()?;
    let child = document.root_element().children().find(|each| each.has_tag_name(name));
    let Some(range) = child.map(|child| child.range()) else { return Some(text.to_owned()) };
    Some([text.get(..range.start)?, text.get(range.end..)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nested_without_end_is_not_read() {
        let nested = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
        assert!(Tree::read(&nested(DEPTH_MOST)).is_some());
        assert_eq!(Tree::read(&nested(100_000)), None);
    }

    #[test]
    fn order_and_spaces_do_not_matter_and_all_else_does() {
        let tree = |text: &str| Tree::read(text).unwrap();
        let one = tree("<a x='1' y='2'><b>t</b><c/><c/></a>");
        assert_eq!(one, tree("<a y=\"2\"  x='1'>\n <c/>\n<b> t\n</b><c></c></a>"));
        for other in [
            "<a x='1' y='3'><b>t</b><c/><c/></a>",
            "<a x='1'><b>t</b><c/><c/></a>",
            "<a x='1' y='2'><b>u</b><c/><c/></a>",
            "<a x='1' y='2'><b>t</b><c/></a>",
            "<a x='1' y='2'><b>t<c/></b><c/></a>",
            "<a x='1' y='2'><b>t</b><c/><c/><d/></a>",
            "<a x='1' y='2' xmlns='u'><b>t</b><c/><c/></a>",
        ] {
            assert_ne!(one, tree(other), "{other}");
        }
    }

    #[test]
    fn what_another_parser_may_read_otherwise_is_refused() {
        for text in [
            "<?xml version='1.0' encoding='UTF-7'?><a/>",
            "<!DOCTYPE a [<!ENTITY e SYSTEM '/etc/shadow'>]><a>&e;</a>",
            "<a><!-- x --></a>",
            "<a><![CDATA[x]]></a>",
            " <a/>",
            "<a>",
            "",
        ] {
            assert!(Tree::read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_child_is_cut_out() {
        assert_eq!(without("<a><b/><m>x<y/></m><c/></a>", "m").unwrap(), "<a><b/><c/></a>");
        assert_eq!(without("<a><b/></a>", "m").unwrap(), "<a><b/></a>");
    }
}
