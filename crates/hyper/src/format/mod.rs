//! Showing results: Go templates, tables, JSON, and numbers people can read.

mod human;
mod indent;
mod list;
mod table;
mod template;
mod text;
mod time;

pub use human::{bytes_size, duration, human_size, short_size};
pub use indent::indent_json;
pub use list::{List, Row, unescape};
pub use table::{align, align_with};
pub use template::{Template, TemplateError, Value};
pub use text::{ellipsis, harmless, quote};
pub use time::{go_time, local_time, parse_when, rfc3339_nano};
