internal import LayerFormat
internal import Logging
internal import OCIModel
internal import PosixIO

/// An index, and where it came from.
struct OpenedIndex: Sendable {
    var index: LayerIndex
    var restarts: RestartTable?
    /// Somebody else made it, and nothing proves it yet.
    var hint: PlainHint?
}

extension LayerOpener {
    /// The index of a layer that has none of its own: one that somebody made, else by streaming the layer.
    func plainIndex(_ subject: LayerSubject) async throws(BlobError) -> OpenedIndex {
        if let hint = await subject.hint?() {
            let opened = await workers.run { () -> OpenedIndex? in
                guard let (index, restarts) = hint.open(subject.digest, size: subject.size) else { return nil }
                return OpenedIndex(index: index, restarts: restarts, hint: hint)
            }
            if let opened {
                log(.info, cause: "hint \(subject.digest)") { "\(subject.name) is read by the index \(hint.source)" }
                return opened
            }
            log(.notice, cause: "hint \(subject.digest)") {
                "\(subject.name): the index \(hint.source) is of another version of crfs, or damaged; the layer is streamed"
            }
        }
        let result = try await plain.stream(plainSubject(subject))
        let index = try await publish(result, subject)
        return OpenedIndex(index: index, restarts: result.restarts)
    }

    /// Keeps the index that a stream gave.
    private func publish(_ result: PlainResult, _ subject: LayerSubject) async throws(BlobError) -> LayerIndex {
        logNotes(subject, Array(result.notes.prefix(LayerOpener.mostNotes)), result.notes.count)
        let path = path(subject)
        let index = await workers.run { [self] () -> Result<LayerIndex, BlobError> in
            do throws(LayerFormatError) {
                let index = try keep(result.index, subject, path: path)
                plain.forgetStream(subject.digest)
                return .success(index)
            } catch {
                return .failure(BlobError(error, name: subject.name))
            }
        }
        return try index.get()
    }

    // MARK: Proof

    /// How long to wait before a proof that the network prevented is tried again, in nanoseconds.
    private static let proofRetry: UInt64 = 60_000_000_000

    /// Streams the layer behind its readers, and compares the index that this gives with the one that is used: the same
    /// layer gives the same bytes. For as long as somebody uses the layer.
    func proveLater(_ layer: Layer, _ subject: LayerSubject, _ hint: PlainHint) {
        let delay = options.proofDelay
        Task { [weak layer] in
            var delay = delay
            while true {
                try? await Task.sleep(nanoseconds: delay)
                delay = LayerOpener.proofRetry
                guard layer != nil else { return }
                do throws(BlobError) {
                    let result = try await plain.stream(plainSubject(subject), isProof: true)
                    _ = try await publish(result, subject)
                    guard let layer else { return }
                    let isSame = layer.index.withBytes { isSameBytes($0, result.index.span) }
                    if isSame {
                        log(.info, cause: "proof \(subject.digest)") { "\(subject.name) is what the index says" }
                    } else {
                        refute(layer, subject, hint, "the layer has other content than the index says")
                    }
                    return
                } catch {
                    guard error.kind == .corrupt || error.kind == .unsupported else { continue }
                    if let layer { refute(layer, subject, hint, error.reason) }
                    return
                }
            }
        }
    }

    /// Drops what was believed of a layer: its index, the chunks that only that has, and its view.
    private func refute(_ layer: Layer, _ subject: LayerSubject, _ hint: PlainHint, _ why: String) {
        let error = BlobError(
            .corrupt,
            "\(subject.name) was read by the index \(hint.source), which is wrong: \(why); reads fail until the layer is"
                + " opened again, and that source should not be trusted"
        )
        log(.error, cause: "refuted \(subject.digest)") { error.reason }
        layer.refute(error)
        plain.forget(layer)
    }

    private func plainSubject(_ subject: LayerSubject) -> PlainSubject {
        PlainSubject(
            digest: subject.digest,
            size: subject.size,
            name: subject.name,
            places: subject.places,
            isLocal: subject.local != nil
        )
    }
}
