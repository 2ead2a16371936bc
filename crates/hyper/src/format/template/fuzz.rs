//! Templates that nobody would write.

use super::{Template, Value};

/// What the functions and methods are called on.
const DATA: &str = r#"{
    "ID": "abc", "Names": ["/a", "/b"], "State": {"Running": true, "ExitCode": 137, "Error": ""}, "Size": -1,
    "Labels": {"a.b": "c"}, "Nothing": null, "Part": 0.25, "Ports": {"80/tcp": [{"HostPort": "8080"}]}
}"#;

#[test]
fn fuzz_templates() {
    let good = [
        "{{.ID}}\t{{json .State}}\n",
        "table {{.ID}}\t{{.Names}}",
        r#"{{range $i, $e := .Names}}{{if $i}}, {{end}}{{$e | upper}}{{else}}none{{end}}"#,
        r#"{{with .State}}{{if and .Running (ne .ExitCode 0)}}{{printf "%05d|%-5s|%q|%v|%x" .ExitCode "x" "y" . 255}}{{end}}{{end}}"#,
        r#"{{index .Names 1}}{{index .Ports "80/tcp" 0 "HostPort"}}{{len .Names}}{{slice .ID 1 2}}"#,
        r#"{{- /* comment */ -}}{{join (split "a,b" ",") "-"}}{{title "x"}}{{pad .ID 3 4}}{{truncate .ID 2}}{{println 1}}"#,
        r#"{{$x := .Size}}{{if lt $x 0}}{{$x}}{{else if eq $x 1 2}}b{{end}}{{.Labels}}{{not true}}{{or "" "z"}}"#,
    ];
    let tokens = [
        "{{",
        "}}",
        "-}}",
        "{{-",
        "(",
        ")",
        "|",
        "%",
        "%9999999999d",
        "%*d",
        "$",
        ":=",
        "range ",
        "end",
        "with ",
        ".",
        "\"",
        "`",
        "'",
        "\\",
        "-1",
        "99999999999999999999",
        "1e999",
        "0x",
        "é",
        "\u{0}",
        "slice ",
        "index ",
        "pad ",
        "truncate ",
        "printf ",
        "join ",
        "split ",
        "json ",
        "{{if",
        "{{else}}",
        "((((((((",
        "len ",
    ];
    let data: Value = serde_json::from_str(DATA).expect("valid JSON");
    hyper_fuzz::text(&good, &tokens, |text| {
        if let Ok(template) = Template::parse(text)
            && let Ok(output) = template.render(&data)
        {
            assert!(output.len() < 64 << 20, "{} bytes of {text}", output.len());
        }
        let _ = crate::format::unescape(text);
        let _ = crate::format::align(text);
    });
}
