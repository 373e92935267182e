internal import Glibc
internal import LayerFormat
internal import PosixIO

/// Content that waits for its turn, in a file without a name that goes with this value.
final class Spool {
    private struct Item {
        var entry: TarEntry
        var offset: UInt64
    }

    private let file: Descriptor
    private var items: [Int: Item] = [:]
    private var end: UInt64 = 0
    private var buffer = UniqueBytes(capacity: 256 * 1024)

    init(beside path: String) throws(ConvertError) {
        let temporary = "\(path).spool-\(getpid())-\(monotonicNanoseconds())"
        do throws(SystemError) {
            file = try Descriptor.open(temporary, O_RDWR | O_CREAT | O_EXCL)
            _ = unsafe unlink(temporary)
        } catch {
            throw ConvertError(error, "no temporary file can be made beside \(path)")
        }
    }

    /// Keeps an entry and its content.
    func add(_ entry: TarEntry, number: Int, content: BlobAssembler.Content) throws(ConvertError) {
        items[number] = Item(entry: entry, offset: end)
        while true {
            let count = try unsafe buffer.withUnsafeMutableCapacity { (bytes) throws(ConvertError) in
                try unsafe content(bytes)
            }
            if count == 0 { break }
            do throws(SystemError) {
                let offset = end
                try unsafe buffer.withUnsafeMutableCapacity { (bytes) throws(SystemError) in
                    let piece = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<count])
                    // SAFETY: the span is used while the buffer is borrowed.
                    try unsafe file.write(RawSpan(_unsafeBytes: piece), at: offset)
                }
            } catch {
                throw ConvertError(error, "the temporary file for prioritized files cannot be written")
            }
            end += UInt64(count)
        }
    }

    /// Calls `body` with a kept entry and what reads its content.
    func withEntry(
        _ number: Int,
        _ body: (TarEntry, BlobAssembler.Content) throws(ConvertError) -> Void
    ) throws(ConvertError) {
        guard let item = items[number] else { throw ConvertError(.input, "the input changed while it was read") }
        var position: UInt64 = 0
        try unsafe body(item.entry) { (buffer) throws(ConvertError) in
            let count = Int(min(UInt64(buffer.count), item.entry.size - position))
            do throws(SystemError) {
                let piece = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
                let got = try unsafe self.file.read(into: piece, at: item.offset + position)
                position += UInt64(got)
                return got
            } catch {
                throw ConvertError(error, "the temporary file for prioritized files cannot be read")
            }
        }
    }
}
