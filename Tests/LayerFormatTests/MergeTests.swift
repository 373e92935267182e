import LayerFormat
import OCIModel
import PosixIO
import Testing

/// What an image shows of its layers (OCI image specification; spec section 2).
@Suite struct MergeTests {
    private func image(_ tocs: [[UInt8]], note: (String) -> Void = { _ in }) throws -> LayerFormat.ImageIndex {
        let layers = try tocs.enumerated().map { number, json in
            try build(json, layer: Digest(words: (UInt64(number), 0, 0, 0)))
        }
        let bytes = try LayerFormat.ImageIndex.build(layers: layers, note: note)
        let image = try LayerFormat.ImageIndex(bytes: bytes.share(), layers: layers)
        try image.verifyAllBlocks()
        return image
    }

    private func paths(_ image: LayerFormat.ImageIndex) -> [String] { image.rows().keys.sorted() }

    @Test func oneLayerIsItself() throws {
        let json = toc(
            #""name":"a","type":"reg","size":3,"offset":1"#,
            #""name":"b","type":"hardlink","linkName":"a""#,
            #""name":"d/e/f","type":"fifo""#,
            #""name":".wh.never","type":"reg""#
        )
        let merged = try image([json])
        var expected = try build(json).rows()
        expected["/never"] = nil
        for (path, row) in expected { expected[path]?.flags = row.flags.subtracting(.implicit) }
        #expect(merged.rows() == expected)
        #expect((0..<UInt32(merged.recordCount)).allSatisfy { !merged.node($0).hasOwnAttributes })
        #expect((0..<UInt32(merged.recordCount)).allSatisfy { merged.inode($0) == $0 })
    }

    @Test func whiteoutsHideLowerNames() throws {
        let merged = try image([
            toc(
                #""name":"a","type":"fifo""#,
                #""name":"d/x","type":"fifo""#,
                #""name":"e/x","type":"fifo""#,
                #""name":"k","type":"fifo""#
            ),
            toc(
                #""name":".wh.a","type":"reg""#,
                #""name":".wh.d","type":"reg""#,
                #""name":"e/.wh.x","type":"reg""#,
                #""name":"new/.wh.y","type":"reg""#
            ),
            toc(
                #""name":"a","type":"char","devMajor":1,"devMinor":3"#,
                #""name":"d/z","type":"fifo""#,
                #""name":"k","type":"char""#
            ),
        ])
        #expect(paths(merged) == ["", "/a", "/d", "/d/z", "/e", "/new"])
    }

    @Test func opaqueDirectoriesHideLowerContent() throws {
        for upper in [
            toc(#""name":"d/.wh..wh..opq","type":"reg""#, #""name":"d/n","type":"fifo""#),
            toc(#""name":"d/n","type":"fifo""#, #""name":"d/.wh..wh..opq","type":"reg""#),
        ] {
            let merged = try image([
                toc(#""name":"d/","type":"dir","mode":448"#, #""name":"d/o/p","type":"fifo""#), upper,
            ])
            #expect(paths(merged) == ["", "/d", "/d/n"])
            // The upper layer only implies the directory: it keeps its attributes.
            #expect(merged.rows()["/d"]?.mode == 0o040700)
        }
        // Removed and made anew: nothing is kept.
        let anew = try image([
            toc(#""name":"d/","type":"dir","mode":448"#, #""name":"d/o","type":"fifo""#),
            toc(#""name":"d/n","type":"fifo""#, #""name":".wh.d","type":"reg""#),
        ])
        #expect(paths(anew) == ["", "/d", "/d/n"])
        #expect(anew.rows()["/d"]?.mode == 0o040755)
        let root = try image([
            toc(#""name":"./","type":"dir","mode":448"#, #""name":"o","type":"fifo""#),
            toc(#""name":".wh..wh..opq","type":"reg""#, #""name":"n","type":"fifo""#),
        ])
        #expect(paths(root) == ["", "/n"])
        #expect(root.rows()[""]?.mode == 0o040700)
    }

    @Test func typesReplaceEachOther() throws {
        let merged = try image([
            toc(#""name":"a/x","type":"fifo""#, #""name":"b","type":"fifo""#, #""name":"c/x","type":"fifo""#),
            toc(
                #""name":"a","type":"fifo""#,
                #""name":"b/y","type":"fifo""#,
                #""name":"c","type":"symlink","linkName":"q""#
            ),
            toc(#""name":"a/z","type":"fifo""#, #""name":"c/w","type":"fifo""#),
        ])
        #expect(paths(merged) == ["", "/a", "/a/z", "/b", "/b/y", "/c", "/c/w"])
        #expect(merged.rows()[""]?.links == 5)
    }

    @Test func implicitDirectoriesKeepLowerAttributes() throws {
        let merged = try image([
            toc(#""name":"d/","type":"dir","mode":448,"uid":5"#),
            toc(#""name":"d/x","type":"fifo""#), toc(#""name":"d/y","type":"fifo""#),
        ])
        #expect(merged.rows()["/d"]?.mode == 0o040700 && merged.rows()["/d"]?.uid == 5)
        #expect(merged.node(1).layer == 0)
    }

    @Test func linkCountsAreOfTheMergedTree() throws {
        let merged = try image([
            toc(
                #""name":"a","type":"reg","size":1,"offset":1"#,
                #""name":"b","type":"hardlink","linkName":"a""#,
                #""name":"c","type":"hardlink","linkName":"a""#,
                #""name":"p","type":"reg","size":1,"offset":2"#,
                #""name":"q","type":"hardlink","linkName":"p""#
            ),
            toc(#""name":".wh.a","type":"reg""#),
        ])
        let rows = merged.rows()
        #expect(rows["/b"]?.links == 2 && rows["/c"]?.links == 2 && rows["/p"]?.links == 2)
        let record = { (name: String) in unsafe merged.lookup([UInt8](name.utf8).span.bytes, in: 0)! }
        #expect(merged.node(record("b")).hasOwnAttributes && merged.node(record("c")).hasOwnAttributes)
        #expect(merged.inode(record("c")) == record("b") && merged.inode(record("b")) == record("b"))
        #expect(!merged.node(record("q")).hasOwnAttributes && merged.inode(record("q")) == record("q"))
    }

    // MARK: Links across layers

    @Test func linksReachIntoLowerLayers() throws {
        let merged = try image([
            toc(
                #""name":"d/f","type":"reg","size":3,"offset":1,"uid":1"#,
                #""name":"s","type":"symlink","linkName":"x""#
            ),
            toc(
                #""name":"l1","type":"hardlink","linkName":"d/f""#,
                #""name":"e/l2","type":"hardlink","linkName":"./l1""#
            ),
            toc(#""name":"l3","type":"hardlink","linkName":"e/l2""#, #""name":"l4","type":"hardlink","linkName":"s""#),
        ])
        let rows = merged.rows()
        for path in ["/d/f", "/l1", "/e/l2", "/l3"] {
            #expect(rows[path]?.uid == 1 && rows[path]?.links == 4 && rows[path]?.first == "/l1", "\(path)")
        }
        #expect(rows["/l4"]?.target == [UInt8]("x".utf8) && rows["/l4"]?.links == 2)
    }

    /// A link is to what was there below its own layer, whatever happens to that name in the layer or above.
    @Test func linksKeepTheInodeOfTheirTime() throws {
        let merged = try image([
            toc(#""name":"f","type":"reg","size":3,"offset":1,"uid":1"#),
            toc(#""name":"kept","type":"hardlink","linkName":"f""#, #""name":".wh.f","type":"reg""#),
            toc(#""name":"f","type":"reg","size":5,"offset":1,"uid":2"#),
            toc(#""name":"new","type":"hardlink","linkName":"f""#, #""name":".wh.new","type":"reg""#),
        ])
        let rows = merged.rows()
        #expect(rows["/kept"]?.uid == 1 && rows["/kept"]?.links == 1)
        #expect(rows["/new"]?.uid == 2 && rows["/new"]?.links == 2)
    }

    @Test func linksToNothingAreLeftOutWithANote() throws {
        var notes: [String] = []
        let merged = try image([
            toc(#""name":"d/x","type":"fifo""#, #""name":"gone","type":"fifo""#),
            toc(#""name":".wh.gone","type":"reg""#, #""name":"o/.wh..wh..opq","type":"reg""#),
            toc(
                #""name":"1","type":"hardlink","linkName":"gone""#,
                #""name":"2","type":"hardlink","linkName":"d""#,
                #""name":"3","type":"hardlink","linkName":"d/x/y""#,
                #""name":"4","type":"hardlink","linkName":"none""#,
                #""name":"5","type":"hardlink","linkName":"4""#
            ),
        ]) { notes.append($0) }
        #expect(paths(merged) == ["", "/d", "/d/x", "/o"])
        #expect(notes.count == 5)
    }

    @Test func manyLinksOfOneNameAreFast() throws {
        let links = (0..<2000).map { #"{"name":"d/l\#($0)","type":"hardlink","linkName":"some/lower/directory/f"}"# }
        let merged = try image([
            toc(#""name":"some/lower/directory/f","type":"fifo""#),
            Array("{\"version\":1,\"entries\":[\(links.joined(separator: ","))]}".utf8),
        ])
        #expect(merged.rows()["/d/l77"]?.links == 2001)
    }

    @Test func imagesWithoutLayersHaveNoTree() {
        #expect { _ = try LayerFormat.ImageIndex.build(layers: []) { _ in } } throws: {
            ($0 as? LayerFormatError)?.kind == .noIndex
        }
    }

    @Test func aRepeatedLayerCountsOnce() throws {
        let a = try build(
            toc(#""name":"x","type":"fifo""#, #""name":"y","type":"fifo""#),
            layer: Digest(words: (1, 0, 0, 0))
        )
        let b = try build(
            toc(#""name":".wh.x","type":"reg""#, #""name":".wh.y","type":"reg""#),
            layer: Digest(words: (2, 0, 0, 0))
        )
        let bytes = try LayerFormat.ImageIndex.build(layers: [a, b, a]) { _ in }
        let merged = try LayerFormat.ImageIndex(bytes: bytes.share(), layers: [a, b, a])
        #expect(paths(merged) == ["", "/x", "/y"])
        #expect(merged.node(1).layer == 2)
    }
}
