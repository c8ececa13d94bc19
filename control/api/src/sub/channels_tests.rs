use super::*;
use crate::spdy::tests::from_runtime;

fn named(protocols: &'static [Protocol], name: &str) -> &'static Protocol {
    protocols.iter().find(|known| known.name == name).expect("known")
}

fn shell(tty: bool) -> Stream {
    Stream { stdin: true, stdout: true, stderr: true, tty, ..Stream::default() }
}

/// The messages in frames of ours, which are short: `text` ones as they are, others with their bytes escaped.
fn shown(frames: &[Bytes]) -> Vec<String> {
    let payload = |frame: &Bytes| match frame[1] {
        126 => frame.slice(4..),
        _ => frame.slice(2..),
    };
    frames.iter().map(|frame| payload(frame).escape_ascii().to_string()).collect()
}

/// Messages, each in pieces.
type Messages<'a> = &'a [&'a [&'a [u8]]];
type Told = Result<Vec<Frame>, Violation>;

/// What the runtime is told by messages of the client.
fn up(protocol: &str, messages: Messages<'_>) -> Told {
    let (mut incoming, _) = codec(named(COMMAND, protocol), of_command(&shell(true)), true);
    let mut out = Pieces::default();
    for message in messages {
        let pieces = message.iter().map(|piece| Event::Data(Bytes::copy_from_slice(piece)));
        for event in [Event::Begin].into_iter().chain(pieces).chain([Event::End]) {
            incoming.take(event, &mut out)?;
        }
    }
    let mut reader = Reader::default();
    reader.push(&out.node.concat());
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().expect("SPDY") {
        frames.push(frame);
    }
    Ok(frames)
}

#[test]
fn messages_go_to_their_streams() {
    // Streams in the order of opening: error, stdin, stdout, resize.
    let (stdin, resize) = (StreamId::nth(1), StreamId::nth(3));
    let data = |id, text: &'static str| Frame::Data(id, text.into());
    let cases: [(&str, &str, Messages<'_>, Told); 9] = [
        ("input", "v4.channel.k8s.io", &[&[b"\0hello"]], Ok(vec![data(stdin, "hello")])),
        ("in pieces", "v4.channel.k8s.io", &[&[b"\0", b"hel"]], Ok(vec![data(stdin, "hel")])),
        ("a size", "v5.channel.k8s.io", &[&[b"\x04{}"]], Ok(vec![data(resize, "{}")])),
        ("to what the client reads", "v5.channel.k8s.io", &[&[b"\x01x"], &[b"\x03x"], &[b"\x09x"]], Ok(vec![])),
        ("nothing at all", "v5.channel.k8s.io", &[&[], &[b"\0"]], Ok(vec![])),
        (
            "the end of input, and nothing after it",
            "v5.channel.k8s.io",
            &[&[b"\xff", b"\0"], &[b"\0late"], &[b"\xff\0"], &[b"\xff\x01"]],
            Ok(vec![Frame::End(stdin)]),
        ),
        ("which older clients do not have", "v4.channel.k8s.io", &[&[b"\xff\0"]], Ok(vec![])),
        ("base64 in pieces", "base64.channel.k8s.io", &[&[b"0aGVsb", b"G8="]], {
            Ok(vec![data(stdin, "hel"), data(stdin, "lo")])
        }),
        ("base64 that is none", "base64.channel.k8s.io", &[&[b"0????"]], Err(Violation("this is not base64"))),
    ];
    for (name, protocol, messages, expect) in cases {
        assert_eq!(up(protocol, messages), expect, "{name}");
    }
    assert!(up("base64.channel.k8s.io", &[&[b"0aGVsb"]]).is_err());
}

#[test]
fn the_runtime_is_told_first_and_the_client_greeted() {
    for (protocol, stream, streams, greeting) in [
        ("v5.channel.k8s.io", shell(false), 4, "\\x01"),
        ("v5.channel.k8s.io", shell(true), 4, "\\x01"),
        ("v4.base64.channel.k8s.io", Stream { stderr: true, ..Stream::default() }, 2, "2"),
        ("", Stream { stdin: true, ..Stream::default() }, 2, "\\x03"),
    ] {
        let (_, mut outgoing) = codec(named(COMMAND, protocol), of_command(&stream), true);
        let mut out = Pieces::default();
        outgoing.begin(&mut out);
        assert_eq!((out.node.len(), shown(&out.client)), (streams, vec![greeting.to_owned()]), "{stream:?}");
        // Only when all streams are taken may the client be heard.
        for n in 0..streams {
            let reply = from_runtime(&Frame::Reply(StreamId::nth(n as u32)));
            assert_eq!(outgoing.take(reply.into(), &mut out), Ok(n + 1 == streams), "{stream:?}");
        }
    }
}

#[test]
fn output_and_outcome_reach_the_client() {
    let (error, stdout) = (StreamId::nth(0), StreamId::nth(2));
    let data = |id, text: &'static str| from_runtime(&Frame::Data(id, text.into()));
    let cases = [
        ("v4.channel.k8s.io", vec![data(stdout, "hi"), data(error, "{}")], Ok(()), "\\x01hi \\x03{}", true),
        ("v4.base64.channel.k8s.io", vec![data(stdout, "hi"), data(error, "{}")], Ok(()), "1aGk= 3e30=", true),
        ("channel.k8s.io", vec![data(stdout, "hi")], Ok(()), "\\x01hi", true),
        ("channel.k8s.io", vec![], Err("lost"), "\\x03lost", false),
        ("v4.channel.k8s.io", vec![data(error, "{}")], Err("lost"), "\\x03{}", false),
        ("v4.channel.k8s.io", vec![data(StreamId::nth(9), "?")], Err("lost"), "STATUS", false),
        ("v5.channel.k8s.io", vec![data(stdout, "hi")], Ok(()), "\\x01hi STATUS", false),
    ];
    for (protocol, sent, end, expect, complete) in cases {
        let (_, mut outgoing) = codec(named(COMMAND, protocol), of_command(&shell(false)), true);
        let mut out = Pieces::default();
        for bytes in sent {
            outgoing.take(bytes.into(), &mut out).expect("SPDY");
        }
        let end = outgoing.end(end.map_err(str::to_owned), &mut out);
        let mut said = shown(&out.client);
        said.iter_mut().filter(|said| said.contains("Failure")).for_each(|said| *said = "STATUS".to_owned());
        assert_eq!((said.join(" ").as_str(), matches!(end, End::Complete)), (expect, complete), "{protocol}");
    }
}

#[test]
fn ports_have_two_channels_each() {
    let channels = of_ports(&[80, 8080]).expect("two ports");
    let (mut incoming, mut outgoing) = codec(named(PORTS, "v4.channel.k8s.io"), channels, false);
    let mut out = Pieces::default();
    outgoing.begin(&mut out);
    assert_eq!(shown(&out.client), ["\\x01P\\x00", "\\x00P\\x00", "\\x03\\x90\\x1f", "\\x02\\x90\\x1f"]);
    let mut sent = Pieces::default();
    for event in [Event::Begin, Event::Data("\x02GET".into()), Event::End] {
        incoming.take(event, &mut sent).expect("good");
    }
    let mut reader = Reader::default();
    reader.push(&sent.node.concat());
    assert_eq!(reader.next(), Ok(Some(Frame::Data(StreamId::nth(3), "GET".into()))));
    assert!(of_ports(&[]).is_err() && of_ports(&[1; 33]).is_err());
}
