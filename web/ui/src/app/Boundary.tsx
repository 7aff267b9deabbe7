import { Component, type ReactNode } from "react";
import { Notice } from "./Notice";

/** The last resort: a fault in the page's own code is said, not shown as a white page. */
export class Boundary extends Component<{ children: ReactNode }, { fault: string | null }> {
  override state = { fault: null };

  static getDerivedStateFromError(error: unknown): { fault: string } {
    return { fault: error instanceof Error ? error.message : String(error) };
  }

  override render(): ReactNode {
    if (this.state.fault === null) return this.props.children;
    return (
      <main className="fault">
        <Notice kind="error" title="This page has failed" action="Reload" onAction={() => location.reload()}>
          {this.state.fault}
        </Notice>
      </main>
    );
  }
}
