internal import CShims

/// A value of a TOML document. A table's members are in the order in which they stand there.
public indirect enum TOMLValue: Sendable, Equatable {
    /// A table's members.
    case table([TOMLMember])
    /// An array's items.
    case array([TOMLValue])
    /// A string.
    case string(String)
    /// An integer.
    case integer(Int64)
    /// A number with a fraction.
    case number(Double)
    /// true or false.
    case boolean(Bool)
    /// A date, a time or both, as TOML writes it.
    case date(String)

    /// A document that is none.
    public struct Failure: Error, Sendable, Equatable, CustomStringConvertible {
        /// What is wrong, in the parser's words.
        public let reason: String
        /// Where, from 1; 0 where it is not known.
        public let line: UInt32

        /// `line N: reason`.
        public var description: String { line == 0 ? reason : "line \(line): \(reason)" }
    }

    /// Parses a document, which is a table.
    public static func parse(_ text: [UInt8]) throws(Failure) -> TOMLValue {
        let builder = TOMLBuilder()
        var failure = crfs_toml_failure()
        let parsed = unsafe text.withUnsafeBytes { bytes in
            // SAFETY: the builder outlives the call, which is the only one that uses the context.
            unsafe crfs_toml_parse(
                bytes.bindMemory(to: CChar.self).baseAddress,
                bytes.count,
                takeNode,
                Unmanaged.passUnretained(builder).toOpaque(),
                &failure
            )
        }
        guard parsed == 1, let document = builder.document else {
            // SAFETY: the shim terminates the text inside the array.
            let reason = unsafe withUnsafeBytes(of: &failure.reason) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            throw Failure(reason: reason, line: failure.line)
        }
        return document
    }

    /// The members, where it is a table.
    public var members: [TOMLMember]? {
        if case .table(let members) = self { return members }
        return nil
    }

    /// The items, where it is an array.
    public var items: [TOMLValue]? {
        if case .array(let items) = self { return items }
        return nil
    }

    /// The text, where it is a string.
    public var text: String? {
        if case .string(let text) = self { return text }
        return nil
    }

    /// The value, where it is true or false.
    public var flag: Bool? {
        if case .boolean(let flag) = self { return flag }
        return nil
    }

    /// A table's member of that name.
    public subscript(_ key: String) -> TOMLValue? { members?.first { $0.key == key }?.value }
}

/// A key of a TOML table and its value.
public struct TOMLMember: Sendable, Equatable {
    /// The key, without quotes.
    public let key: String
    /// The value.
    public let value: TOMLValue
    /// Where the key stands, from 1.
    public let line: UInt32
}

/// Puts the nodes together that the shim hands over.
private final class TOMLBuilder {
    private enum Open {
        case table([TOMLMember])
        case array([TOMLValue])
    }

    private var open: [(key: String, line: UInt32, content: Open)] = []
    private(set) var document: TOMLValue?

    func begin(_ key: String, _ line: UInt32, isTable: Bool) {
        open.append((key, line, isTable ? .table([]) : .array([])))
    }

    func end() {
        guard let last = open.popLast() else { return }
        switch last.content {
        case .table(let members): add(last.key, last.line, .table(members))
        case .array(let items): add(last.key, last.line, .array(items))
        }
    }

    func add(_ key: String, _ line: UInt32, _ value: TOMLValue) {
        guard let last = open.indices.last else {
            document = value
            return
        }
        switch open[last].content {
        case .table(let members):
            open[last].content = .table(members + [TOMLMember(key: key, value: value, line: line)])
        case .array(let items):
            open[last].content = .array(items + [value])
        }
    }
}

private func takeNode(_ context: UnsafeMutableRawPointer?, _ node: UnsafePointer<crfs_toml_node>?) {
    // SAFETY: the context is the builder of the `parse` that is going on; the node and its texts hold during the call.
    guard let context = unsafe context, let node = unsafe node?.pointee else { return }
    let builder = unsafe Unmanaged<TOMLBuilder>.fromOpaque(context).takeUnretainedValue()
    let key = unsafe text(node.key, node.key_size)
    let value = unsafe text(node.text, node.text_size)
    let line = unsafe node.line
    switch unsafe node.kind {
    case crfs_toml_table: builder.begin(key, line, isTable: true)
    case crfs_toml_array: builder.begin(key, line, isTable: false)
    case crfs_toml_end: builder.end()
    case crfs_toml_string: builder.add(key, line, .string(value))
    case crfs_toml_integer: builder.add(key, line, .integer(unsafe node.integer))
    case crfs_toml_float: builder.add(key, line, .number(unsafe node.number))
    case crfs_toml_boolean: builder.add(key, line, .boolean(unsafe node.integer != 0))
    default: builder.add(key, line, .date(value))
    }
}

private func text(_ start: UnsafePointer<CChar>?, _ count: Int) -> String {
    unsafe String(decoding: UnsafeRawBufferPointer(start: start, count: count), as: UTF8.self)
}
