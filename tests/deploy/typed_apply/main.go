// Typed-apply reads Kubernetes objects as YAML from stdin, and types each as the server does for server-side apply.
// It fails where the server would: an unknown field, a field given twice, two elements of a list with one merge key.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
)

func main() {
	if err := typeAll(yaml.NewYAMLReader(bufio.NewReader(os.Stdin))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func typeAll(documents *yaml.YAMLReader) error {
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	types := applyconfigurations.NewTypeConverter(scheme.Scheme)
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		object, kind, err := strict.Decode(document, nil, nil)
		if err != nil {
			return err
		}
		if _, err := types.ObjectToTyped(object); err != nil {
			return fmt.Errorf("%s: %w", kind.Kind, err)
		}
	}
}
