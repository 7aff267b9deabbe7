import { type ReactNode, useRef, useState } from "react";
import { CopyIcon, DoneIcon } from "./icons";

/** A shell command that can be copied. */
export function Command({ text, label }: { text: string; label: string }): ReactNode {
  const [copied, setCopied] = useState(false);
  const code = useRef<HTMLElement>(null);
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
      setTimeout(() => setCopied(false), 1600);
    } catch {
      // Without a clipboard (plain HTTP on another host) the text is selected, ready for the copy key.
      if (code.current) getSelection()?.selectAllChildren(code.current);
    }
  };
  return (
    <div className="command">
      <pre tabIndex={0}>
        <code ref={code}>{text}</code>
      </pre>
      <button type="button" className="icon-button" onClick={() => void copy()} aria-label={copied ? "Copied" : `Copy: ${label}`} title={copied ? "Copied" : "Copy"}>
        {copied ? <DoneIcon /> : <CopyIcon />}
      </button>
    </div>
  );
}
